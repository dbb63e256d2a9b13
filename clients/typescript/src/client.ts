import { ConnectionFailed, InvalidAnswer, ServerNotReady, Timeout, TooLarge } from "./errors.js";
import { events, GenerateStream, generated } from "./events.js";
import { answersTo, batches, inOrder, inputsOf, pages, type Source } from "./many.js";
import { sleep } from "./retries.js";
import { bodyOf, Transport } from "./transport.js";
import type {
  AliasState,
  AuditEntry,
  AuditOptions,
  CallOptions,
  ChatChunk,
  ChatCompletion,
  ChatMessage,
  ChatParameters,
  ClientOptions,
  EmbedOptions,
  EmbedParameters,
  FetchOptions,
  FetchSource,
  GenerateParameters,
  Health,
  Inputs,
  ListOptions,
  ManyOptions,
  Parameters,
  Prediction,
  PredictionOf,
  Question,
  Ready,
  Result,
  Rollout,
  Task,
  TaskDetails,
  TaskSettings,
  Upload,
  UploadOptions,
  UploadSource,
  Version,
} from "./types.js";
import { countedRequest, fieldsOf, formOf, formRequest, sentByXhr, sizeOf } from "./uploads.js";
import { vectorOf } from "./vectors.js";

const CONCURRENCY = 4;
const BATCH = 32; // inputs of a call, where there are many
const TEXTS = 256; // texts of a call for vectors

/**
 * Talks to a Manyhats server. Wherever a task is asked it may be written `task`, `task@alias` or `task@3`.
 *
 * Every method rejects with a `ManyhatsError`, or with the reason of an `AbortSignal` that was given.
 */
export class Client {
  readonly #transport: Transport;

  constructor(options: ClientOptions = {}) {
    this.#transport = new Transport(options);
  }

  /** The server's address. */
  get baseUrl(): string {
    return this.#transport.baseUrl;
  }

  // ---- asking

  /** Asks one task; the answer has an output for each input, in order, and its `kind` says of which form. */
  predict(task: string, inputs: Inputs, parameters?: Parameters, options?: CallOptions): Promise<Prediction> {
    const body = { inputs, ...(parameters && { parameters }) };
    return bodyOf(
      this.#routes.POST("/v1/tasks/{task}/predict", { ...at(task), body, ...this.#call(options) }),
    );
  }

  /** Asks several tasks about the same inputs: an answer or a failure for each task. */
  async predictTasks(
    tasks: readonly string[],
    inputs: Inputs,
    parameters?: Parameters,
    options: CallOptions = {},
  ): Promise<Result[]> {
    const questions = tasks.map((task) => ({ task, inputs, ...(parameters && { parameters }) }));
    return answersTo(this.#transport, questions, options);
  }

  /**
   * Asks any number of questions: an answer or a failure for each, in their order. Some calls are under way at a time,
   * and questions are taken as there is room, so that neither they nor the answers need to fit into memory. Refusals
   * are tried again, each by itself. Leaving the loop ends what is under way.
   */
  async *predictMany(questions: Source<Question>, options: ManyOptions = {}): AsyncGenerator<Result, void> {
    const { concurrency = CONCURRENCY, batchSize = BATCH, ...call } = options;
    const ask = (batch: Question[], signal: AbortSignal) =>
      answersTo(this.#transport, batch, { ...call, signal });
    const source = batches(questions, batchSize, inputsOf);
    for await (const results of inOrder(source, concurrency, ask, call.signal)) yield* results;
  }

  /** Has a task generate the text that follows a prompt, or those that follow several. */
  async generate(
    task: string,
    prompt: Inputs,
    parameters?: GenerateParameters,
    options?: CallOptions,
  ): Promise<PredictionOf<"generate">> {
    return generated(await this.predict(task, prompt, parameters, options));
  }

  /** The same, token by token as it is generated. */
  generateStream(
    task: string,
    prompt: Inputs,
    parameters?: GenerateParameters,
    options?: CallOptions,
  ): GenerateStream {
    const body = { inputs: prompt, parameters: { ...parameters, stream: true } };
    return new GenerateStream(() =>
      bodyOf(
        this.#routes.POST("/v1/tasks/{task}/predict", {
          ...at(task),
          body,
          parseAs: "stream",
          ...this.#call(options, true),
        }),
      ).then(present),
    );
  }

  /** Has a task answer in a conversation. */
  chat(
    model: string,
    messages: ChatMessage[],
    parameters?: ChatParameters,
    options?: CallOptions,
  ): Promise<ChatCompletion> {
    const body = { ...parameters, model, messages };
    return bodyOf(this.#routes.POST("/v1/chat/completions", { body, ...this.#call(options) }));
  }

  /** The same, token by token; the last piece has no choices, and the usage. Leaving the loop ends the request. */
  async *chatStream(
    model: string,
    messages: ChatMessage[],
    parameters?: ChatParameters,
    options?: CallOptions,
  ): AsyncGenerator<ChatChunk, void> {
    const body = { ...parameters, model, messages, stream: true, stream_options: { include_usage: true } };
    const answer = this.#routes.POST("/v1/chat/completions", {
      body,
      parseAs: "stream",
      ...this.#call(options, true),
    });
    yield* events<ChatChunk>(present(await bodyOf(answer)));
  }

  /**
   * The vectors of texts, any number of them, by a task of kind `embed` or by `base`. A call with more texts than the
   * server takes is made again in halves.
   */
  async embed(
    task: string,
    texts: string | Source<string>,
    parameters?: EmbedParameters,
    { onProgress, ...options }: EmbedOptions = {},
  ): Promise<Float32Array[]> {
    const ask = async (input: string[], signal: AbortSignal): Promise<Float32Array[]> => {
      const body = { ...parameters, model: task, input, encoding_format: "base64" as const };
      const call = this.#call({ ...options, signal });
      try {
        const { data } = await bodyOf(this.#routes.POST("/v1/embeddings", { body, ...call }));
        return data.map(({ embedding }) => {
          if (typeof embedding === "string") return vectorOf(embedding);
          throw new InvalidAnswer("the vectors are not in base64");
        });
      } catch (error) {
        const half = input.length >> 1;
        if (!half || !(error instanceof TooLarge)) throw error;
        return [...(await ask(input.slice(0, half), signal)), ...(await ask(input.slice(half), signal))];
      }
    };
    const vectors: Float32Array[] = [];
    const source = batches(typeof texts === "string" ? [texts] : texts, TEXTS, () => 1);
    for await (const some of inOrder(source, CONCURRENCY, ask, options.signal)) {
      vectors.push(...some);
      onProgress?.(vectors.length);
    }
    return vectors;
  }

  // ---- tasks

  /** All tasks by name, or those with `search` in their names, fetched `limit` at a time. */
  tasks(limit = 100, { search, ...options }: ListOptions = {}): AsyncGenerator<Task, void> {
    return pages((token) => {
      const query = { limit, ...(search && { search }), ...token };
      return bodyOf(this.#routes.GET("/v1/tasks", { params: { query }, ...this.#call(options) }));
    });
  }

  /** All changes, of one task or of all that the key may change, the newest first, fetched `limit` at a time. */
  audit(limit = 100, { task, ...options }: AuditOptions = {}): AsyncGenerator<AuditEntry, void> {
    return pages((token) => {
      const query = { limit, ...(task && { task }), ...token };
      return bodyOf(this.#routes.GET("/v1/audit", { params: { query }, ...this.#call(options) }));
    });
  }

  /** One task with its versions, aliases and settings. */
  task(task: string, options?: CallOptions): Promise<TaskDetails> {
    return bodyOf(this.#routes.GET("/v1/tasks/{task}", { ...at(task), ...this.#call(options) }));
  }

  /** Sets what is not weights; null goes back to the adapter's own. */
  configure(task: string, settings: TaskSettings, options?: CallOptions): Promise<TaskDetails> {
    return bodyOf(
      this.#routes.PUT("/v1/tasks/{task}", { ...at(task), body: settings, ...this.#call(options) }),
    );
  }

  /** Takes a task away; requests in flight finish. */
  async deleteTask(task: string, options?: CallOptions): Promise<void> {
    await this.#routes.DELETE("/v1/tasks/{task}", { ...at(task), ...this.#call(options) });
  }

  /** Points an alias at a version, or at several by weight: `{ 2: 90, 3: 10 }`; with what else is rolled out on it. */
  setAlias(
    task: string,
    alias: string,
    target: number | Record<number, number>,
    { affinity, shadow, canary, ...options }: CallOptions & Rollout = {},
  ): Promise<TaskDetails> {
    const params = { path: { task, alias } };
    const split = Object.entries(target).map(([version, weight]) => ({ version: Number(version), weight }));
    const body = {
      ...(typeof target === "number" ? { version: target } : { split }),
      ...(affinity ? { affinity } : {}),
      ...(shadow ? { shadow } : {}),
      ...(canary ? { canary } : {}),
    };
    return bodyOf(
      this.#routes.PUT("/v1/tasks/{task}/aliases/{alias}", { params, body, ...this.#call(options) }),
    );
  }

  /** One alias: where it points, its shadow and its canary, and what was counted of them. */
  alias(task: string, alias: string, options?: CallOptions): Promise<AliasState> {
    const params = { path: { task, alias } };
    return bodyOf(this.#routes.GET("/v1/tasks/{task}/aliases/{alias}", { params, ...this.#call(options) }));
  }

  /** Removes an alias other than `stable`; the versions stay. */
  deleteAlias(task: string, alias: string, options?: CallOptions): Promise<TaskDetails> {
    const params = { path: { task, alias } };
    return bodyOf(
      this.#routes.DELETE("/v1/tasks/{task}/aliases/{alias}", { params, ...this.#call(options) }),
    );
  }

  /** Points `stable` back at what it pointed at before, or at `version`. */
  rollback(task: string, version?: number, options?: CallOptions): Promise<TaskDetails> {
    const body = version === undefined ? {} : { version };
    return bodyOf(
      this.#routes.POST("/v1/tasks/{task}/rollback", { ...at(task), body, ...this.#call(options) }),
    );
  }

  // ---- versions

  /**
   * Uploads an adapter as a new version; the same files again give the version that has them. With labelled `examples`
   * it is evaluated first; `activated` and `evaluation` of the answer say what followed.
   */
  async upload(task: string, source: UploadSource, options: UploadOptions = {}): Promise<Upload> {
    const body = await fieldsOf(source, options);
    const form = formOf(body);
    const total = sizeOf(body);
    const { onProgress } = options;
    const byXhr = onProgress && typeof XMLHttpRequest !== "undefined";
    const make = (first: Request) =>
      onProgress && !byXhr ? countedRequest(first, form, total, onProgress) : formRequest(first, form);
    const call = this.#transport.callOf(
      make,
      options,
      byXhr ? { send: sentByXhr(form, total, onProgress) } : {},
    );
    const bodySerializer = () => form;
    const { examples, ...typed } = body; // a file, which the document calls a text
    const given = { ...at(task), body: typed, bodySerializer, ...call };
    const answer = await this.#routes.POST("/v1/tasks/{task}/versions", given);
    return { ...(await bodyOf(Promise.resolve(answer))), new: answer.response.status === 201 };
  }

  /** Has the server fetch an adapter from a source that its operator allows, as a new version. */
  async uploadFrom(task: string, source: FetchSource, options: FetchOptions = {}): Promise<Upload> {
    const { alias, activate, sha256, settings } = options;
    const body = {
      source,
      ...(alias === undefined ? {} : { alias }),
      ...(activate === undefined ? {} : { activate }),
      ...(sha256 === undefined ? {} : { sha256 }),
      ...(settings === undefined ? {} : { task: settings }),
    };
    const given = { ...at(task), body, ...this.#call(options) };
    const answer = await this.#routes.POST("/v1/tasks/{task}/versions", given);
    return { ...(await bodyOf(Promise.resolve(answer))), new: answer.response.status === 201 };
  }

  /** One version. */
  version(task: string, number: number, options?: CallOptions): Promise<Version> {
    const params = { path: { task, number } };
    return bodyOf(this.#routes.GET("/v1/tasks/{task}/versions/{number}", { params, ...this.#call(options) }));
  }

  /** Removes a version that no alias points at. */
  async deleteVersion(task: string, number: number, options?: CallOptions): Promise<void> {
    const params = { path: { task, number } };
    await this.#routes.DELETE("/v1/tasks/{task}/versions/{number}", { params, ...this.#call(options) });
  }

  /** A version's files as a tar.gz. */
  async download(task: string, number: number, options?: CallOptions): Promise<ReadableStream<Uint8Array>> {
    const params = { path: { task, number } };
    const answer = this.#routes.GET("/v1/tasks/{task}/versions/{number}/download", {
      params,
      parseAs: "stream",
      ...this.#call(options, true),
    });
    return present(await bodyOf(answer));
  }

  // ---- the adapter cache

  /** Loads the task's adapter into a slot; resolves when it is there. */
  load(task: string, options?: CallOptions): Promise<Task> {
    return bodyOf(this.#routes.POST("/v1/tasks/{task}/load", { ...at(task), ...this.#call(options) }));
  }

  /** Gives back the memory of the task's adapters. */
  unload(task: string, options?: CallOptions): Promise<Task> {
    return bodyOf(this.#routes.POST("/v1/tasks/{task}/unload", { ...at(task), ...this.#call(options) }));
  }

  /** Keeps the task's adapter in a slot. */
  pin(task: string, options?: CallOptions): Promise<TaskDetails> {
    return bodyOf(this.#routes.POST("/v1/tasks/{task}/pin", { ...at(task), ...this.#call(options) }));
  }

  /** Has a task asked again that was quarantined for its adapter's faults. */
  lift(task: string, options?: CallOptions): Promise<Task> {
    return bodyOf(this.#routes.POST("/v1/tasks/{task}/lift", { ...at(task), ...this.#call(options) }));
  }

  /** Lets the task's adapter be evicted again. */
  unpin(task: string, options?: CallOptions): Promise<TaskDetails> {
    return bodyOf(this.#routes.POST("/v1/tasks/{task}/unpin", { ...at(task), ...this.#call(options) }));
  }

  // ---- the server

  /** Says that the process lives. */
  health(options?: CallOptions): Promise<Health> {
    return bodyOf(this.#routes.GET("/healthz", this.#call(options)));
  }

  /** The server's backbone and version. Rejects with `ServerNotReady` while it starts or drains. */
  ready(options?: CallOptions): Promise<Ready> {
    return bodyOf(this.#routes.GET("/readyz", this.#call({ maxRetries: 0, ...options })));
  }

  /** Resolves once the server is ready. Rejects with `Timeout` after `timeout` milliseconds. */
  async waitReady(timeout = 60_000, options: CallOptions = {}): Promise<Ready> {
    const end = Date.now() + timeout;
    for (let pause = 100; ; pause = Math.min(2 * pause, 1000)) {
      try {
        return await this.ready({ timeout: Math.min(Math.max(end - Date.now(), 100), 5000), ...options });
      } catch (error) {
        const notYet = [ServerNotReady, ConnectionFailed, Timeout].some((kind) => error instanceof kind);
        if (!notYet) throw error;
        if (Date.now() >= end) throw new Timeout(`not ready within ${timeout} ms`, { cause: error });
      }
      await sleep(Math.min(pause, Math.max(end - Date.now(), 0)), options.signal);
    }
  }

  get #routes() {
    return this.#transport.routes;
  }

  #call(options?: CallOptions, stream?: boolean) {
    return this.#transport.call(options, stream);
  }
}

function at(task: string) {
  return { params: { path: { task } } };
}

function present<T>(body: T | null): T {
  if (body === null) throw new InvalidAnswer("the answer has no body");
  return body;
}
