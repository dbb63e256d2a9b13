import { pair, type KindView } from "./kind";

export const regress: KindView = {
  second: "optional",
  fields: [],
  inputs: pair,
  answer: ([output]: { value: number }[]) => output && <p class="verdict">{output.value.toPrecision(4)}</p>,
};
