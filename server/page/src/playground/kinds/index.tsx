// Every kind by its name. A new one is a module here, and a line.
import type { Kind } from "../../server/types";
import { classify } from "./classify";
import { embed } from "./embed";
import { fill } from "./fill";
import { generate } from "./generate";
import { pair, type AnyView, type KindView } from "./kind";
import { regress } from "./regress";
import { rerank } from "./rerank";
import { span } from "./span";
import { tokens } from "./tokens";

const KINDS: { [K in Kind]: KindView<K> } = { classify, tokens, regress, rerank, span, embed, generate, fill };

/** For a kind that came after this page: what the server says, as it is. */
const UNKNOWN: AnyView = {
  second: "optional",
  fields: [],
  inputs: pair,
  answer: (outputs) => <pre class="tall">{JSON.stringify(outputs, null, 2)}</pre>,
};

export function viewOf(kind: string | undefined): AnyView {
  return KINDS[kind as Kind] ?? UNKNOWN;
}
