// Every kind by its name. A new one is a module here, and a line.
import { classify } from "./classify";
import { embed } from "./embed";
import { fill } from "./fill";
import { generate } from "./generate";
import { pair, type KindView } from "./kind";
import { regress } from "./regress";
import { rerank } from "./rerank";
import { span } from "./span";
import { tokens } from "./tokens";

const KINDS: Record<string, KindView> = { classify, tokens, regress, rerank, span, embed, generate, fill };

/** For a kind that came after this page: what the server says, as it is. */
const UNKNOWN: KindView = {
  second: "optional",
  fields: [],
  inputs: pair,
  answer: (outputs) => <pre class="tall">{JSON.stringify(outputs, null, 2)}</pre>,
};

export function viewOf(kind: string | undefined): KindView {
  return KINDS[kind ?? ""] ?? UNKNOWN;
}
