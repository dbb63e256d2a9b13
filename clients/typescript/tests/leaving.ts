// Leaves a stream after its first token, and stays until its input ends, so that the server learns of it by the
// client's own doing. Arguments: the server's address, the task, and how: by leaving the loop, or by a signal.

import { once } from "node:events";
import { Client } from "../src/index.js";

const [baseUrl, task = "", how] = process.argv.slice(2);
const hats = new Client({ baseUrl, apiKey: "may-ask" });
const stop = new AbortController();
const reason = new Error("enough");
try {
  const messages = [{ role: "user", content: "w1" }];
  const stream =
    how === "signal"
      ? hats.chatStream(task, messages, { max_tokens: 50, ignore_eos: true }, { signal: stop.signal })
      : hats.generateStream(task, "w1 w2 w3", { max_new_tokens: 50, ignore_eos: true });
  for await (const _ of stream) {
    if (how !== "signal") break;
    stop.abort(reason);
  }
} catch (error) {
  if (error !== reason) throw error;
}
console.log("left");
process.stdin.resume();
await once(process.stdin, "end");
