// What the playground knows of one kind of task: what it takes, and how its answers look.
import type { ComponentChildren } from "preact";
import type { Kind, OutputOf, ParametersOf, Predict } from "../../server/types";
import type { Field } from "../parameters";

/** What was asked. */
export interface Sent {
  text: string;
  second: string;
}

export interface View<Output, Parameter extends string> {
  /** The second text of an input: none is taken, it may be given, or there is no answer without it, and it is called so. */
  second: "none" | "optional" | { called: string };
  fields: Field<Parameter>[];
  /** The inputs to send. */
  inputs(sent: Sent): Predict["inputs"];
  answer(outputs: Output[], sent: Sent): ComponentChildren;
}

export type KindView<K extends Kind> = View<OutputOf<K>, keyof ParametersOf<K> & string>;
/** Where it is not known which one it is. */
export type AnyView = View<OutputOf<Kind>, string>;

export function pair({ text, second }: Sent): Predict["inputs"] {
  return second ? { text, text_pair: second } : text;
}
