// Asks one task to write, and tells what has come.
import { path } from "../server/client";
import type { Command } from "./curl";
import { ending, sampling } from "./kinds/generate";
import { parametersOf } from "./parameters";
import type { Prediction } from "./answers";
import { events } from "./stream";
import { messagesFor, type Turn, type Written } from "./turn";

export interface Wish {
  task: string;
  chat: boolean;
  prompt: string;
  system: string;
  /** The conversation so far. */
  turns: Turn[];
  /** Of the kind `generate`, as they are typed. */
  typed: Record<string, string>;
}

/** The request: of a chat OpenAI's, whose parameter for the length has another name. */
export function commandOf({ task, chat, prompt, system, turns, typed }: Wish): Command {
  const parameters = parametersOf(sampling, typed);
  if (!chat) return { address: path("tasks", task, "predict"), body: { inputs: prompt, parameters: { ...parameters, stream: true } }, streams: true };
  const { max_new_tokens, ...others } = parameters;
  const body = {
    model: task,
    messages: messagesFor(task, turns, system, prompt),
    ...(max_new_tokens !== undefined && { max_tokens: max_new_tokens }),
    ...others,
    stream: true,
    stream_options: { include_usage: true },
  };
  return { address: path("chat", "completions"), body, streams: true };
}

/** Has a task write; `tell` gets what is new each time. Never fails: a failure is told too. */
export async function write(wish: Wish, signal: AbortSignal, tell: (news: Partial<Written>) => void): Promise<void> {
  const began = performance.now();
  const since = () => performance.now() - began;
  let text = "";
  let first: number | undefined;
  const add = (piece: string) => {
    if (!piece) return;
    text += piece;
    first ??= since();
    tell({ text, first, state: "writing" });
  };
  const { address, body } = commandOf(wish);
  try {
    for await (const event of events(address, body, signal)) {
      if (wish.chat) tell(chunk(event, add));
      else if (event.outputs) tell(whole(event as unknown as Prediction));
      else add(event.text);
    }
    tell({ state: "ended", total: since() });
  } catch (error) {
    if (signal.aborted) tell({ state: "stopped", reason: "stopped", total: since() });
    else tell({ state: "failed", reason: (error as Error).message, total: since() });
  }
}

function chunk(event: Record<string, any>, add: (piece: string) => void): Partial<Written> {
  const choice = event.choices?.[0];
  add(choice?.delta?.content ?? "");
  const news: Partial<Written> = {};
  if (choice?.finish_reason) news.reason = ending(choice.finish_reason);
  if (event.usage) news.tokens = event.usage.completion_tokens;
  return news;
}

function whole({ outputs, version, batch, usage }: Prediction): Partial<Written> {
  const [output] = outputs as { text: string; finish_reason: string }[];
  return { text: output?.text ?? "", reason: ending(output?.finish_reason ?? ""), version, batch: batch.id, tokens: usage.output_tokens };
}
