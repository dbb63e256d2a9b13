// Asks one task to write, and tells what has come.
import { address, body, server } from "../server/client";
import type { Chat, ChatChunk, OutputOf, Predict, Prediction, PredictionEvent } from "../server/types";
import type { Command } from "./curl";
import { ending, sampling } from "./kinds/generate";
import { parametersOf } from "./parameters";
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

/** The request as a command. */
export function commandOf(wish: Wish): Command {
  return wish.chat
    ? { address: address("/v1/chat/completions"), body: chatOf(wish), streams: true }
    : { address: address("/v1/tasks/{task}/predict", { task: wish.task }), body: promptOf(wish), streams: true };
}

function promptOf({ prompt, typed }: Wish): Predict {
  return { inputs: prompt, parameters: { ...parametersOf(sampling, typed), stream: true } };
}

/** OpenAI's, whose parameter for the length has another name. */
function chatOf({ task, prompt, system, turns, typed }: Wish): Chat {
  const { max_new_tokens, ...others } = parametersOf(sampling, typed);
  return {
    model: task,
    messages: messagesFor(task, turns, system, prompt),
    ...(max_new_tokens !== undefined && { max_tokens: max_new_tokens as number }),
    ...others,
    stream: true,
    stream_options: { include_usage: true },
  };
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
  try {
    if (wish.chat) {
      const answer = await body(server.POST("/v1/chat/completions", { body: chatOf(wish), parseAs: "stream", signal }));
      for await (const event of events<ChatChunk>(answer)) tell(chunk(event, add));
    } else {
      const params = { path: { task: wish.task } };
      const answer = await body(server.POST("/v1/tasks/{task}/predict", { params, body: promptOf(wish), parseAs: "stream", signal }));
      for await (const event of events<PredictionEvent | Prediction>(answer)) {
        if ("outputs" in event) tell(whole(event));
        else add(event.text);
      }
    }
    tell({ state: "ended", total: since() });
  } catch (error) {
    if (signal.aborted) tell({ state: "stopped", reason: "stopped", total: since() });
    else tell({ state: "failed", reason: (error as Error).message, total: since() });
  }
}

function chunk(event: ChatChunk, add: (piece: string) => void): Partial<Written> {
  const choice = event.choices[0];
  add(choice?.delta?.content ?? "");
  const news: Partial<Written> = {};
  if (choice?.finish_reason) news.reason = ending(choice.finish_reason);
  if (event.usage) news.tokens = event.usage.completion_tokens;
  return news;
}

function whole({ outputs, version, batch, usage }: Prediction): Partial<Written> {
  const [output] = outputs as OutputOf<"generate">[];
  return { text: output?.text ?? "", reason: ending(output?.finish_reason ?? null), version, batch: batch.id, tokens: usage.output_tokens };
}
