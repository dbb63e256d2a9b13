import { pair, type KindView } from "./kind";

export const regress: KindView = {
  second: { label: "Second text", needed: false },
  fields: [],
  inputs: pair,
  answer: ([output]: { value: number }[]) => output && <p class="verdict">{output.value.toPrecision(4)}</p>,
};
