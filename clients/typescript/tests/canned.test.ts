// What the client does with answers, of a server that is made up here.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { afterEach, beforeEach, describe, it } from "node:test";
import * as manyhats from "../src/index.js";
import { Client } from "../src/index.js";
import { type Answer, client, eventStream, ok, prediction, refusal, uploaded } from "./canned.js";

describe("errors", () => {
  const kinds: [number, string][] = [
    [400, "BadRequest"],
    [401, "AuthenticationError"],
    [403, "PermissionDenied"],
    [404, "NotFound"],
    [409, "Conflict"],
    [413, "TooLarge"],
    [415, "UnsupportedFormat"],
    [422, "UnprocessableAdapter"],
    [429, "Overloaded"],
    [503, "ServerNotReady"],
    [504, "DeadlineExceeded"],
    [500, "ServerError"],
    [507, "ServerError"],
    [418, "APIError"],
  ];
  for (const [status, name] of kinds) {
    it(`${status} is ${name}`, async () => {
      const headers = { "x-request-id": "r-1", "retry-after": "7" };
      const { hats, requests } = client(() => refusal(status, headers), { maxRetries: 0 });
      const error = await hats.predict("spam", "a").catch((caught: unknown) => caught);
      assert.ok(error instanceof manyhats.APIError);
      assert.equal(error.name, name);
      const kind = Object.entries(manyhats).find(([exported]) => exported === name)?.[1];
      assert.equal(error.constructor, kind);
      const { message, type, param, requestId, retryAfter } = error;
      const expected = { message: "what was wrong", type: "SomeError", param: "inputs" };
      assert.deepEqual({ message, type, param }, expected);
      assert.deepEqual([error.status, requestId, retryAfter], [status, "r-1", 7]);
      assert.equal(requests.length, 1);
    });
  }

  it("an answer that is no server's of ours", async () => {
    for (const answer of [
      new Response("<html>", { status: 502 }),
      new Response("<html>"),
      new Response(null),
    ]) {
      await assert.rejects(client(() => answer.clone()).hats.predict("spam", "a"), manyhats.InvalidAnswer);
    }
  });

  it("a connection that breaks is not tried again", async () => {
    const { hats, requests } = client(() => {
      throw new TypeError("fetch failed", { cause: new Error("socket hang up") });
    });
    await assert.rejects(hats.predict("spam", "a"), {
      name: "ConnectionFailed",
      sent: true,
      message: /hang up/,
    });
    assert.equal(requests.length, 1);
  });
});

describe("retries", () => {
  it("a refusal is tried again after the time that the server says", async () => {
    const answer: Answer = (request, times) =>
      times < 3 ? refusal(times === 1 ? 429 : 503, { "retry-after": "0" }) : ok(request, times);
    const { hats, requests } = client(answer);
    assert.equal((await hats.predict("spam", ["a"])).outputs.length, 1);
    assert.equal(requests.length, 3);
    for (const request of requests) assert.deepEqual(await request.json(), { inputs: ["a"] });
  });

  it("a refusal without a time, and so often at most", async () => {
    const { hats, requests } = client(() => refusal(429), { maxRetryWait: 1 });
    await assert.rejects(hats.predict("spam", "a"), manyhats.Overloaded);
    await assert.rejects(hats.predict("spam", "a", {}, { maxRetries: 0 }), manyhats.Overloaded);
    assert.equal(requests.length, 3 + 1);
  });

  it("not after longer than is bearable", async () => {
    const { hats, requests } = client(() => refusal(503, { "retry-after": "3600" }));
    await assert.rejects(hats.predict("spam", "a"), { name: "ServerNotReady", retryAfter: 3600 });
    assert.equal(requests.length, 1);
  });

  it("a connection that was never made", async () => {
    const cause = Object.assign(new Error("refused"), { code: "ECONNREFUSED" });
    const { hats, requests } = client(
      (request, times) => {
        if (times === 1) throw new TypeError("fetch failed", { cause });
        return ok(request, times);
      },
      { maxRetryWait: 1 },
    );
    await hats.predict("spam", "a");
    assert.equal(requests.length, 2);
  });

  it("an upload is sent whole each time", async () => {
    const forms: FormData[] = [];
    const { hats } = client(async (request, times) => {
      forms.push(await request.formData());
      return times === 1 ? refusal(429, { "retry-after": "0" }) : Response.json(uploaded);
    });
    const counts: number[] = [];
    const onProgress = ({ sent, total }: manyhats.Progress) => counts.push(sent / total);
    const settings = { labels: ["ham", "spam"] };
    const files = { "a.json": "{}", "b.bin": new Uint8Array(1e6), "c.bin": new Blob(["xyz"]) };
    await hats.upload("spam", files, { alias: "canary", activate: false, settings, onProgress });
    assert.equal(forms.length, 2);
    for (const form of forms) {
      assert.deepEqual([...form.keys()], ["task", "alias", "activate", "files", "files", "files"]);
      assert.deepEqual(JSON.parse(String(form.get("task"))), settings);
      const sent = form.getAll("files") as File[];
      assert.deepEqual(
        sent.map((file) => [file.name, file.size]),
        [
          ["a.json", 2],
          ["b.bin", 1e6],
          ["c.bin", 3],
        ],
      );
    }
    assert.ok(counts.length > 2);
    assert.equal(counts.at(-1), 1);
  });

  it("an upload of what is no archive and of nothing is not sent", async () => {
    const { hats, requests } = client(() => Response.json(uploaded));
    for (const source of [new Blob(["text"]), new Uint8Array([1, 2, 3, 4]), {}]) {
      await assert.rejects(hats.upload("spam", source), TypeError);
    }
    assert.equal(requests.length, 0);
    assert.equal((await hats.upload("spam", new File(["any"], "a.zip"))).new, false);
  });

  it("waiting ends with the caller's signal", async () => {
    const stop = new AbortController();
    const { hats } = client(() => {
      setTimeout(() => stop.abort(new Error("enough")), 1);
      return refusal(429, { "retry-after": "29" });
    });
    await assert.rejects(hats.predict("spam", "a", {}, { signal: stop.signal }), /enough/);
  });
});

describe("time", () => {
  it("an answer that does not come, and a signal", async () => {
    const never: Answer = (request) =>
      new Promise((_, reject) =>
        request.signal.addEventListener("abort", () => reject(request.signal.reason)),
      );
    const { hats } = client(never, { timeout: 5 });
    await assert.rejects(hats.predict("spam", "a"), { name: "Timeout", message: /5 ms/ });
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 1);
    await assert.rejects(hats.predict("spam", "a", {}, { signal: stop.signal, timeout: 0 }), {
      name: "AbortError",
    });
  });

  it("a next piece that does not come", async () => {
    const server = createServer((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write('data: {"input":0,"text":"a","tokens":[1],"finish_reason":null}\n\n');
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const { port } = server.address() as { port: number };
    const hats = new Client({ baseUrl: `http://127.0.0.1:${port}`, timeout: 300 });
    const texts: string[] = [];
    await assert.rejects(async () => {
      for await (const event of hats.generateStream("x", "y")) texts.push(event.text);
    }, manyhats.Timeout);
    assert.deepEqual(texts, ["a"]);
    server.closeAllConnections();
    server.close();
  });

  it("a server that becomes ready", async () => {
    const ready = { status: "ready", backbone: "b", version: "1" };
    const { hats, requests } = client((_, times) => (times < 3 ? refusal(503) : Response.json(ready)));
    assert.deepEqual(await hats.waitReady(), ready);
    assert.equal(requests.length, 3);
    await assert.rejects(client(() => refusal(503)).hats.waitReady(1), manyhats.Timeout);
  });
});

describe("streams", () => {
  const event = (text: string) =>
    `data: ${JSON.stringify({ input: 0, text, tokens: [1], finish_reason: null })}\n\n`;

  it("pieces cut anywhere", async () => {
    const whole = new TextEncoder().encode(`${event("ä€")}${event("b")}data: [DONE]\n\n`);
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const byte of whole) controller.enqueue(Uint8Array.of(byte));
        controller.close();
      },
    });
    const { hats } = client(() => new Response(body));
    const texts: string[] = [];
    for await (const { text } of hats.generateStream("x", "y")) texts.push(text);
    assert.deepEqual(texts, ["ä€", "b"]);
  });

  it("an error on the way, and one that breaks off", async () => {
    const error =
      'data: {"error":{"message":"too long","type":"DeadlineExceededError","param":null,"code":504}}\n\n';
    const cases = [
      [eventStream(event("a"), error), manyhats.DeadlineExceeded],
      [eventStream(event("a")), manyhats.ConnectionFailed],
      [eventStream(event("a"), "data: nothing\n\n"), manyhats.InvalidAnswer],
    ] as const;
    for (const [answer, kind] of cases) {
      const texts: string[] = [];
      await assert.rejects(async () => {
        for await (const { text } of client(() => answer).hats.generateStream("x", "y")) texts.push(text);
      }, kind);
      assert.deepEqual(texts, ["a"]);
    }
  });
});

describe("options", () => {
  const names = ["MANYHATS_URL", "MANYHATS_API_KEY"] as const;
  const before = names.map((name) => process.env[name]);
  beforeEach(() => {
    process.env.MANYHATS_URL = "http://from.environment/base/";
    process.env.MANYHATS_API_KEY = "a-key";
  });
  afterEach(() => {
    names.forEach((name, i) => {
      if (before[i] === undefined) delete process.env[name];
      else process.env[name] = before[i];
    });
  });

  it("come from the environment, the client, and the call", async () => {
    const { requests } = client(ok);
    const fetch = async (request: Request) => {
      requests.push(request);
      return Response.json(prediction("spam", ["a"]));
    };
    await new Client({ fetch, headers: { "x-own": "1" } }).predict("a b@canary", "a");
    await new Client({ fetch, apiKey: "other" }).predict(
      "spam",
      "a",
      {},
      { headers: { "x-request-id": "r" } },
    );
    assert.equal(requests[0]?.url, "http://from.environment/base/v1/tasks/a%20b%40canary/predict");
    assert.deepEqual(
      [requests[0]?.headers.get("authorization"), requests[0]?.headers.get("x-own")],
      ["Bearer a-key", "1"],
    );
    assert.deepEqual(
      [requests[1]?.headers.get("authorization"), requests[1]?.headers.get("x-request-id")],
      ["Bearer other", "r"],
    );
  });
});
