// Text as it is written: the server's events, one after another.
import { EventSourceParserStream } from "eventsource-parser/stream";
import { open, Refused } from "../server/client";

/** The events of an answer, as JSON, up to `[DONE]`. Raises Refused, also for an event that says what failed. */
export async function* events(address: string, json: unknown, signal: AbortSignal): AsyncGenerator<Record<string, any>> {
  const answer = await open(address, { json, signal });
  if (!answer.body) return;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Refused(0, "The server's answer broke off.");
      if (value.data === "[DONE]") return;
      const event = JSON.parse(value.data);
      if (event.error) throw new Refused(answer.status, event.error.message, event.error.param ?? null);
      yield event;
    }
  } finally {
    await reader.cancel().catch(() => {}); // aborted already
  }
}
