// The client against a running server, which tests/typescript starts: its address and tasks are in the environment.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import * as manyhats from "../src/index.js";
import { Client } from "../src/index.js";
import { downloadTo, fromPath } from "../src/node.js";

interface Served {
  encoder: string;
  decoder: string; // with keys
  classifies: string;
  tags: string;
  writes: string;
  adapter: string; // a folder, of an adapter that classifies
  stranger: string; // of one for another backbone
}

const served: Served | undefined = process.env.MANYHATS_SERVED
  ? JSON.parse(process.env.MANYHATS_SERVED)
  : undefined;
const skip = served ? false : "no server: tests/typescript starts one";
const { encoder, decoder, classifies, tags, writes, adapter, stranger } = served ?? ({} as Served);
const hats = new Client({ baseUrl: encoder });
const writer = new Client({ baseUrl: decoder, apiKey: "may-ask" });

describe("a server that reads", { skip }, () => {
  it("answers by kind", async () => {
    const answer = await hats.predict(`${classifies}@stable`, ["w1 w2", { text: "w3", text_pair: "w4" }], {
      logits: true,
    });
    assert.equal(answer.kind, "classify");
    if (answer.kind === "classify") {
      assert.equal(answer.outputs.length, 2);
      assert.equal(answer.outputs[0]?.logits?.length, 3);
    }
    const tagged = await hats.predict(tags, "w1 w2");
    assert.ok(tagged.kind === "tokens" && tagged.outputs[0]?.tokens[0]?.text === "w1");
    const [one, none] = await hats.predictTasks([classifies, "nobody"], "w1");
    assert.equal(one?.kind, "classify");
    assert.ok(
      none?.kind === "failure" && none.error instanceof manyhats.NotFound && none.question.task === "nobody",
    );
  });

  it("answers thousands, one of them bad", async () => {
    async function* questions() {
      for (let i = 0; i < 5000; i++) yield { task: classifies, inputs: i === 1234 ? "" : `w${i % 50}` };
    }
    const alone = new Map<string, number>();
    let i = 0;
    for await (const result of hats.predictMany(questions(), { batchSize: 256 })) {
      if (i === 1234) assert.ok(result.kind === "failure" && result.error instanceof manyhats.BadRequest);
      else {
        assert.ok(result.kind === "classify");
        const score = result.outputs[0]?.score ?? Number.NaN;
        const known = alone.get(`w${i % 50}`) ?? score;
        assert.ok(Math.abs(score - known) < 1e-4, `${i}: ${score} is not ${known}`);
        alone.set(`w${i % 50}`, known);
      }
      i++;
    }
    assert.equal(i, 5000);
    assert.ok(new Set(alone.values()).size > 10);
  });

  it("gives vectors as they are", async () => {
    const texts = Array.from({ length: 300 }, (_, i) => `w${i % 90} w1`);
    const vectors = await hats.embed("base", texts, { normalize: true, dimensions: 8 });
    assert.equal(vectors.length, 300);
    assert.ok(vectors.every((vector) => vector instanceof Float32Array && vector.length === 8));
    const own = await hats.predict("base", "w5 w1", { pooling: "mean" });
    const [full] = await hats.embed("base", ["w5 w1"], { pooling: "mean" });
    assert.ok(own.kind === "embed" && full);
    const values = (own.outputs[0]?.embedding ?? []).flat();
    assert.equal(values.length, full.length);
    values.forEach((value, i) => {
      assert.ok(Math.abs(value - (full[i] ?? Number.NaN)) < 1e-5);
    });
  });

  it("takes uploads, versions and aliases", async () => {
    const sent: number[] = [];
    const onProgress = (progress: manyhats.Progress) => sent.push(progress.sent / progress.total);
    const settings = { labels: ["a", "b", "c"] };
    const first = await hats.upload("made", await fromPath(adapter), { settings, onProgress });
    assert.deepEqual(
      [first.task, first.version, first.kind, first.aliases],
      ["made", 1, "classify", { stable: 1 }],
    );
    assert.equal(sent.at(-1), 1);
    assert.equal((await hats.upload("made", await fromPath(adapter))).version, 1);
    const folder = await mkdtemp(join(tmpdir(), "manyhats-"));
    assert.deepEqual([first.new, (await hats.upload("made", await fromPath(adapter))).new], [true, false]);
    const counts: number[] = [];
    const archive = await downloadTo(hats, "made", 1, folder, {
      onProgress: (received) => counts.push(received),
    });
    assert.deepEqual(await readdir(folder), ["made-1.tar.gz"]);
    assert.equal(counts.at(-1), (await readFile(archive)).byteLength);
    assert.equal(await downloadTo(hats, "made", 1, join(folder, "made.tgz")), join(folder, "made.tgz"));
    const bytes = new Uint8Array(await readFile(archive));
    assert.equal((await hats.upload("made", bytes)).new, false);
    assert.deepEqual([...(await readFile(archive)).subarray(0, 2)], [0x1f, 0x8b]);
    const again = await hats.upload("copy", await fromPath(archive), { alias: "canary" });
    assert.equal(again.sha256, first.sha256);
    await writeFile(join(folder, "notes.txt"), "");
    await assert.rejects(fromPath(join(folder, "notes.txt")), /neither a folder nor an archive/);

    assert.deepEqual((await hats.task("made")).labels, settings.labels);
    assert.equal((await hats.configure("made", { max_tokens: 16 })).max_tokens, 16);
    assert.deepEqual((await hats.setAlias("made", "trial", { 1: 3 })).aliases.trial, 1);
    assert.equal((await hats.predict("made@trial", "w1")).task, "made");
    await hats.setAlias("made", "trial", 1, { affinity: "X-User" });
    const trial = await hats.alias("made", "trial");
    assert.deepEqual([trial.version, trial.affinity, trial.canary], [1, "X-User", null]);
    assert.ok(!("trial" in (await hats.deleteAlias("made", "trial")).aliases));
    assert.equal((await hats.version("made", 1)).method, first.method);
    assert.equal((await hats.load("made")).residency, "slot");
    assert.equal((await hats.pin("made")).pinned, true);
    assert.equal((await hats.unpin("made")).pinned, false);
    assert.notEqual((await hats.unload("made")).residency, undefined);
    const names: string[] = [];
    for await (const task of hats.tasks(1)) names.push(task.name);
    assert.ok(names.includes("made") && names.includes("copy"));
    for await (const task of hats.tasks(1, { search: "MAD" })) assert.equal(task.name, "made");
    await assert.rejects(hats.deleteVersion("made", 1), { name: "Conflict", status: 409 });
    await hats.deleteTask("copy");
    await hats.deleteTask("made");
    await assert.rejects(hats.task("made"), manyhats.NotFound);
  });

  it("takes folders in folders", async () => {
    const folder = await mkdtemp(join(tmpdir(), "manyhats-"));
    await cp(adapter, join(folder, "whole", "inner"), { recursive: true });
    await mkdir(join(folder, "whole", ".git"));
    await writeFile(join(folder, "whole", ".git", "config"), "x");
    const files = await fromPath(join(folder, "whole"));
    assert.ok(Object.keys(files).every((name) => name.startsWith("inner/")));
    const sent: number[] = [];
    const whole = await hats.upload("nested", files, {
      onProgress: ({ sent: some, total }) => sent.push(some / total),
    });
    const plain = await hats.upload("plain", await fromPath(adapter));
    assert.deepEqual([whole.sha256, sent.at(-1)], [plain.sha256, 1]);
    await symlink(adapter, join(folder, "whole", "link"));
    await assert.rejects(fromPath(join(folder, "whole")), /link is a link to a folder/);
    await mkdir(join(folder, "empty"));
    await assert.rejects(fromPath(join(folder, "empty")), /empty has no files/);
    for (const task of ["nested", "plain"]) await hats.deleteTask(task);
  });

  it("evaluates on labelled examples", async () => {
    const files = (await fromPath(adapter)) as Record<string, Blob>;
    await hats.upload("judged", files);
    const labels = (await hats.task("judged")).labels ?? ["LABEL_0", "LABEL_1", "LABEL_2"];
    const rows = labels.map((label, i) => ({ text: `w${i} w1`, label }));
    const second = { ...files, "README.md": "Another one." };
    const made = await hats.upload("judged", second, { examples: rows, maxDrop: 1, metric: "accuracy" });
    assert.deepEqual([made.version, made.activated, made.evaluation?.examples], [2, true, rows.length]);
    const lines = rows.map((row) => JSON.stringify(row)).join("\n");
    const third = { ...files, "README.md": "A third one." };
    const again = await hats.upload("judged", third, { examples: new Blob([lines]), maxDrop: 1 });
    assert.equal(again.evaluation?.examples, rows.length);
    await assert.rejects(hats.upload("judged", second, { maxDrop: 1 }), /need labelled examples/);
    await assert.rejects(
      hats.upload("judged", second, { examples: rows, metric: "bleu" }),
      manyhats.BadRequest,
    );
    const changes: string[] = [];
    for await (const entry of hats.audit(2, { task: "judged" })) changes.push(entry.action);
    assert.ok(changes.filter((action) => action === "upload").length === 3, changes.join());
    assert.equal((await hats.lift("judged")).name, "judged");
    await hats.deleteTask("judged");
  });

  it("goes back to another version", async () => {
    const files = (await fromPath(adapter)) as Record<string, Blob>;
    await hats.upload("twice", files);
    const card = { ...files, "README.md": "Another one." };
    const second = await hats.upload("twice", card);
    assert.equal(second.version, 2);
    assert.deepEqual((await hats.rollback("twice")).aliases.stable, 1);
    assert.deepEqual((await hats.rollback("twice", 2)).aliases.stable, 2);
    await hats.deleteVersion("twice", 1);
    assert.deepEqual(
      (await hats.task("twice")).versions.map((one) => one.version),
      [2],
    );
    await hats.deleteTask("twice");
  });

  it("says what is wrong", async () => {
    const wrong = hats.predict(classifies, "w1", { temperature: 1 } as manyhats.Parameters);
    await assert.rejects(wrong, { name: "BadRequest", param: /temperature/ });
    const missing = await hats
      .predict("nobody", "w1", {}, { headers: { "x-request-id": "mine" } })
      .catch((e) => e);
    assert.ok(missing instanceof manyhats.NotFound);
    assert.deepEqual([missing.type, missing.param, missing.requestId], ["NotFoundError", "task", "mine"]);
    const lots = Array<string>(3000).fill("w1");
    await assert.rejects(hats.predict(classifies, lots), manyhats.TooLarge);
    const pickle = { "adapter_config.json": "{}", "pytorch_model.bin": "x" };
    await assert.rejects(hats.upload("bad", pickle), manyhats.UnsupportedFormat);
    await assert.rejects(hats.upload("bad", await fromPath(stranger)), manyhats.UnprocessableAdapter);
    await assert.rejects(hats.generate(classifies, "w1"), manyhats.ManyhatsError);
    await assert.rejects(new Client({ baseUrl: decoder }).task("base"), manyhats.AuthenticationError);
    await assert.rejects(writer.deleteTask(writes), manyhats.PermissionDenied);
    const closed = createServer();
    await new Promise<void>((done) => closed.listen(0, "127.0.0.1", done));
    const { port } = closed.address() as { port: number };
    await new Promise((done) => closed.close(done));
    const nowhere = new Client({ baseUrl: `http://127.0.0.1:${port}`, maxRetries: 0 });
    await assert.rejects(nowhere.predict("spam", "a"), { name: "ConnectionFailed", sent: false });
    assert.equal((await hats.ready()).status, "ready");
    assert.equal((await hats.health()).status, "ok");
  });
});

describe("a server that writes", { skip }, () => {
  it("generates, at once and token by token", async () => {
    const whole = await writer.generate(writes, "w1 w2", { max_new_tokens: 6, ignore_eos: true });
    const stream = writer.generateStream(writes, "w1 w2", { max_new_tokens: 6, ignore_eos: true });
    let text = "";
    const tokens: number[] = [];
    for await (const event of stream) {
      text += event.text;
      tokens.push(...event.tokens);
    }
    assert.equal(text, whole.outputs[0]?.text);
    assert.deepEqual(tokens, whole.outputs[0]?.tokens);
    assert.equal(stream.answer?.usage.output_tokens, 6);
  });

  it("converses", async () => {
    const messages = [{ role: "user", content: "w1 w2" }];
    const whole = await writer.chat(writes, messages, { max_tokens: 5, temperature: 0, stop: "never" });
    let text = "";
    let used = 0;
    for await (const chunk of writer.chatStream(writes, messages, { max_tokens: 5, temperature: 0 })) {
      text += chunk.choices[0]?.delta.content ?? "";
      used = chunk.usage?.completion_tokens ?? used;
    }
    assert.equal(text, whole.choices[0]?.message.content);
    assert.equal(used, whole.usage.completion_tokens);
  });

  it("says before the first token what is wrong", async () => {
    const first = async (stream: AsyncIterable<unknown>) => {
      for await (const _ of stream) return;
    };
    await assert.rejects(first(writer.generateStream("nobody", "w1")), manyhats.NotFound);
    await assert.rejects(first(writer.chatStream(writes, [], { max_tokens: 1 })), manyhats.BadRequest);
  });
});
