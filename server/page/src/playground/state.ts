// What somebody has written and chosen in the playground.
import { kept } from "./kept";
import { brokenOff, type Turn } from "./turn";

/** What stands in the fields of each kind's parameters, as it was typed; an empty one is not sent. */
export type Typed = Record<string, Record<string, string>>;

export const text = kept("text", "");
export const second = kept("second", "");
/** The tasks that are asked side by side; null until somebody has chosen. */
export const asked = kept<string[] | null>("asked", null);
export const typed = kept<Typed>("parameters", {});
/** The kind of answer that the bare backbone is asked for; empty for its own. */
export const baseKind = kept("base-kind", "");

export const compared = kept<string[]>("compared", ["base"]);
export const texts = kept<[string, string]>("compared-texts", ["", ""]);
export const pooling = kept("pooling", "");

export const writers = kept<string[]>("writers", ["base"]);
export const chats = kept("chats", true);
export const system = kept("system", "");
export const prompt = kept("prompt", "");
export const conversation = kept<Turn[]>("conversation", []);
export const completion = kept<Turn[]>("completion", []); // the last one alone

// Nobody writes any more what was being written when the page was left.
for (const turns of [conversation, completion]) turns.value = turns.value.map(brokenOff);

export function type(kind: string, name: string, value: string): void {
  typed.value = { ...typed.value, [kind]: { ...typed.value[kind], [name]: value } };
}
