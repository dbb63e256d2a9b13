// A server that is made up: what it answers is a function.

import { Client, type ClientOptions } from "../src/index.js";

export type Answer = (request: Request, times: number) => Response | Promise<Response>;

export function client(answer: Answer, options: ClientOptions = {}) {
  const requests: Request[] = [];
  const fetch = async (request: Request) => {
    requests.push(request.clone());
    request.signal.throwIfAborted();
    return answer(request, requests.length);
  };
  return { requests, hats: new Client({ baseUrl: "http://hats.test/", fetch, ...options }) };
}

export function refusal(status: number, headers: Record<string, string> = {}, type = "SomeError") {
  const error = { message: "what was wrong", type, param: "inputs", code: status };
  return Response.json({ error }, { status, headers });
}

export const version = {
  version: 1,
  sha256: "0",
  method: "lora",
  kind: "classify",
  rank: 8,
  matched_tensors: 1,
  bytes: 1,
};
export const uploaded = { ...version, task: "spam", aliases: {} };

export function prediction(task: string, inputs: string[]) {
  const outputs = inputs.map((label) => ({ label, score: 1, scores: {} }));
  const usage = { input_tokens: 1, output_tokens: 0 };
  const timing = { queue_ms: 0, load_ms: 0, compute_ms: 0 };
  const batch = { id: 1, sequences: 1, tasks: 1, methods: [] };
  return { id: "1", task, version: 1, sha256: "0", kind: "classify", outputs, usage, timing, batch };
}

export const ok: Answer = () => Response.json(prediction("spam", ["a"]));

export function eventStream(...parts: string[]) {
  const body = new ReadableStream<Uint8Array>({
    start(controller) {
      for (const part of parts) controller.enqueue(new TextEncoder().encode(part));
      controller.close();
    },
  });
  return new Response(body, { headers: { "content-type": "text/event-stream" } });
}
