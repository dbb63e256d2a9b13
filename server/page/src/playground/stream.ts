// Text as it is written: the server's events, one after another.
import { EventSourceParserStream } from "eventsource-parser/stream";
import { Refused } from "../server/client";

/** The events of an answer, as JSON, up to `[DONE]`. Raises Refused for an event that says what failed. */
export async function* events<T>(answer: ReadableStream<Uint8Array<ArrayBuffer>> | null): AsyncGenerator<T> {
  if (!answer) return;
  const reader = answer.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Refused(0, "The server's answer broke off.");
      if (value.data === "[DONE]") return;
      const event = JSON.parse(value.data);
      if (event.error) throw new Refused(200, event.error.message, event.error.param ?? null);
      yield event;
    }
  } finally {
    await reader.cancel().catch(() => {}); // aborted already
  }
}
