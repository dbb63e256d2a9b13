// What the playground knows of one kind of task: what it takes, and how its answers look.
import type { ComponentChildren } from "preact";
import type { Field } from "../parameters";

/** What was asked. */
export interface Sent {
  text: string;
  second: string;
}

export interface KindView {
  /** The second text of an input: none is taken, it may be given, or there is no answer without it, and it is called so. */
  second: "none" | "optional" | { called: string };
  fields: Field[];
  /** The inputs to send. */
  inputs: (sent: Sent) => unknown;
  answer: (outputs: never[], sent: Sent) => ComponentChildren;
}

export function pair({ text, second }: Sent): unknown {
  return second ? { text, text_pair: second } : text;
}
