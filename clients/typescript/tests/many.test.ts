// Many questions, to a server that is made up.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Question } from "../src/index.js";
import * as manyhats from "../src/index.js";
import { type Answer, client, prediction, refusal } from "./canned.js";

describe("vectors", () => {
  it("of more texts than the server takes in a call", async () => {
    const sizes: number[] = [];
    const { hats } = client(async (request) => {
      const { input } = (await request.json()) as { input: string[] };
      sizes.push(input.length);
      if (input.length > 100) return refusal(413);
      const data = input.map((text, index) => ({
        object: "embedding",
        index,
        embedding: Buffer.from(new Float32Array([Number(text)]).buffer).toString("base64"),
      }));
      return Response.json({ object: "list", data, model: "base", usage: {} });
    });
    async function* texts() {
      for (let i = 0; i < 300; i++) yield `${i}`;
    }
    const done: number[] = [];
    const vectors = await hats.embed("base", texts(), {}, { onProgress: (some) => done.push(some) });
    assert.deepEqual(
      vectors.map((vector) => vector[0]),
      Array.from({ length: 300 }, (_, i) => i),
    );
    assert.deepEqual(done, [256, 300]);
    assert.ok(sizes.includes(256) && sizes.includes(64));
    assert.equal((await hats.embed("base", "7"))[0]?.[0], 7);
    const tooLarge = client(() => refusal(413)).hats.embed("base", ["a"]);
    await assert.rejects(tooLarge, manyhats.TooLarge);
  });
});

describe("many", () => {
  const answers: Answer = async (request) => {
    const { requests } = (await request.json()) as { requests: (Question & { inputs: string })[] };
    if (requests.some(({ inputs }) => inputs === "unreadable")) return refusal(400);
    return Response.json({
      results: requests.map(({ task, inputs }) =>
        inputs === "bad"
          ? { task, error: { message: "bad", type: "BadRequestError", param: null, code: 400 } }
          : prediction(task, [inputs]),
      ),
    });
  };
  const labels = async (results: AsyncIterable<manyhats.Result>) => {
    const found: string[] = [];
    for await (const result of results) {
      found.push(result.kind === "classify" ? (result.outputs[0]?.label ?? "") : `${result.kind}!`);
    }
    return found;
  };

  it("in order, and no more at a time than wanted", async () => {
    let running = 0;
    let most = 0;
    const { hats, requests } = client(async (request, times) => {
      most = Math.max(most, ++running);
      await new Promise((done) => setTimeout(done, times % 3));
      running--;
      return answers(request, times);
    });
    const texts = Array.from({ length: 100 }, (_, i) =>
      i === 41 ? "bad" : i === 77 ? "unreadable" : `t${i}`,
    );
    const questions = texts.map((inputs) => ({ task: "spam", inputs }));
    const found = await labels(hats.predictMany(questions, { concurrency: 3, batchSize: 8 }));
    assert.deepEqual(
      found,
      texts.map((text) => (text.startsWith("t") ? text : "failure!")),
    );
    assert.equal(most, 3);
    assert.ok(requests.length <= 13 + 2 * 3);
  });

  it("takes no more questions than it has room for, and ends what it began", async () => {
    let taken = 0;
    let ended = false;
    async function* source() {
      try {
        for (;;) yield { task: "spam", inputs: `t${taken++}` };
      } finally {
        ended = true;
      }
    }
    const { hats } = client(answers);
    for await (const result of hats.predictMany(source(), { concurrency: 2, batchSize: 5 })) {
      assert.equal(result.kind, "classify");
      break;
    }
    assert.ok(taken <= 3 * 5);
    assert.ok(ended);
  });

  it("a refused item is asked again by itself", async () => {
    const { hats, requests } = client(
      async (request, times) => {
        if (times > 1) return answers(request, times);
        const error = { message: "full", type: "OverloadedError", param: null, code: 429 };
        return Response.json({ results: [prediction("spam", ["a"]), { task: "spam", error }] });
      },
      { maxRetryWait: 1 },
    );
    const found = await labels(hats.predictMany(["a", "b"].map((inputs) => ({ task: "spam", inputs }))));
    assert.deepEqual(found, ["a", "b"]);
    assert.deepEqual(await requests[1]?.json(), { requests: [{ task: "spam", inputs: "b" }] });
  });

  it("what concerns all is an error of all: a key that may not ask, no server, a source that fails", async () => {
    const { hats } = client(() => refusal(401));
    await assert.rejects(
      labels(hats.predictMany([{ task: "spam", inputs: "a" }])),
      manyhats.AuthenticationError,
    );
    const gone = client(() => {
      throw new TypeError("fetch failed", { cause: new Error("reset") });
    });
    await assert.rejects(
      labels(gone.hats.predictMany([{ task: "spam", inputs: "a" }])),
      manyhats.ConnectionFailed,
    );
    async function* source() {
      yield { task: "spam", inputs: "a" };
      throw new Error("no more");
    }
    const got: string[] = [];
    await assert.rejects(async () => {
      for await (const { kind } of client(answers).hats.predictMany(source(), { batchSize: 1 }))
        got.push(kind);
    }, /no more/);
    assert.deepEqual(got, ["classify"]);
  });
});
