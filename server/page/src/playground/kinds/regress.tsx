import { pair, type KindView } from "./kind";

export const regress: KindView<"regress"> = {
  second: "optional",
  fields: [],
  inputs: pair,
  answer: ([output]) => output && <p class="verdict">{output.value.toPrecision(4)}</p>,
};
