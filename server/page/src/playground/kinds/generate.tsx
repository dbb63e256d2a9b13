import { counted } from "../../parts/format";
import type { ParametersOf } from "../../server/types";
import type { Field } from "../parameters";
import type { KindView } from "./kind";

const REASONS: Record<string, string> = { stop: "ended by itself", length: "reached the limit of new tokens" };

export const sampling: Field<keyof ParametersOf<"generate">>[] = [
  { name: "max_new_tokens", label: "New tokens, at most", of: "integer", min: 1, max: 1_000_000, otherwise: "64" },
  { name: "temperature", label: "Temperature", of: "number", min: 0, max: 100, otherwise: "0" },
  { name: "top_p", label: "top_p", of: "number", min: 0, max: 1, otherwise: "1" },
  { name: "top_k", label: "top_k", of: "integer", min: 0, otherwise: "all" },
  { name: "min_p", label: "min_p", of: "number", min: 0, max: 1, otherwise: "0" },
  { name: "repetition_penalty", label: "Repetition penalty", of: "number", min: 0.01, max: 100, otherwise: "1" },
  { name: "presence_penalty", label: "Presence penalty", of: "number", min: -2, max: 2, otherwise: "0" },
  { name: "frequency_penalty", label: "Frequency penalty", of: "number", min: -2, max: 2, otherwise: "0" },
  { name: "min_tokens", label: "New tokens, at least", of: "integer", min: 0, max: 1_000_000, otherwise: "0" },
  { name: "seed", label: "Seed", of: "integer", min: -1, otherwise: "random" },
  { name: "ignore_eos", label: "Go on to the limit (ignore_eos)", of: "flag" },
  { name: "stop", label: "Stop before, one text a line (\\n for a line break)", of: "lines" },
  { name: "bad_words", label: "Never write, one text a line (bad_words)", of: "lines" },
];

/** The same for chats, whose defaults are OpenAI's. */
const OTHERWISE: Record<string, string> = { max_new_tokens: "what fits", temperature: "1" };
export const chatting = sampling.map((field) => ({ ...field, otherwise: OTHERWISE[field.name] ?? field.otherwise ?? "" }));

export const generate: KindView<"generate"> = {
  second: "none",
  fields: sampling,
  inputs: ({ text }) => text,
  answer: ([output]) => output && (
    <>
      <p class="written">{output.text || <span class="soft">No text</span>}</p>
      <p class="soft small">{counted(output.tokens.length, "token")}, {ending(output.finish_reason)}</p>
    </>
  ),
};

/** Why a text ends, in words. */
export function ending(reason: string | null): string {
  return reason === null ? "" : (REASONS[reason] ?? reason);
}
