// Answers that come in pieces.

import { EventSourceParserStream } from "eventsource-parser/stream";
import { ConnectionFailed, type ErrorDetails, errorFrom, InvalidAnswer } from "./errors.js";
import type { GenerateEvent, Prediction, PredictionOf } from "./types.js";

/** The events of a body, to `[DONE]`. Whoever stops before has the request ended. */
export async function* events<T extends object>(body: ReadableStream<Uint8Array>): AsyncGenerator<T, void> {
  const decoded = body.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>);
  const reader = decoded.pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ConnectionFailed("the stream broke off before its end", true);
      if (value.data === "[DONE]") return;
      const event = parsed<T | { error: ErrorDetails }>(value.data);
      if ("error" in event) throw errorFrom(event.error);
      yield event;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function parsed<T>(data: string): T {
  try {
    return JSON.parse(data);
  } catch {
    throw new InvalidAnswer(`an event is no JSON: ${data.slice(0, 200)}`);
  }
}

/**
 * A text as it is generated: an event for each token. It is asked for when the first is wanted, and may be gone
 * through once; leaving the loop ends the request.
 */
export class GenerateStream implements AsyncIterable<GenerateEvent> {
  /** The whole answer, at the end. */
  answer: PredictionOf<"generate"> | undefined;
  readonly #start: () => Promise<ReadableStream<Uint8Array>>;

  constructor(start: () => Promise<ReadableStream<Uint8Array>>) {
    this.#start = start;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerateEvent, void> {
    for await (const event of events<GenerateEvent | Prediction>(await this.#start())) {
      if (!("outputs" in event)) yield event;
      else this.answer = generated(event);
    }
  }
}

/** The answer of a task that generates. Throws for one of another kind. */
export function generated(answer: Prediction): PredictionOf<"generate"> {
  if (answer.kind === "generate") return answer;
  throw new InvalidAnswer(
    `the task ${answer.task} is of kind ${answer.kind}, and does not generate: use predict`,
  );
}
