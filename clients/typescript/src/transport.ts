// Sends requests: keys, timeouts, retries, and errors as exceptions.

import createClient, { type Client as Routes } from "openapi-fetch";
import { ConnectionFailed, errorOf, InvalidAnswer, ManyhatsError, Timeout } from "./errors.js";
import { type Linked, linkedTo } from "./linked.js";
import { pauseAfter, sleep } from "./retries.js";
import type { paths } from "./schema.js";
import type { CallOptions, ClientOptions } from "./types.js";

const DEFAULT_URL = "http://127.0.0.1:8000";
const TIMEOUT = 60_000;
const MAX_RETRIES = 2;
const MAX_RETRY_WAIT = 30_000;
// What Node's fetch says of a connection that was never made.
const NEVER_MADE = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "UND_ERR_CONNECT_TIMEOUT"]);

type Send = (request: Request) => Promise<Response>;

/** What the methods of openapi-fetch take beside a body. */
export type Call = {
  fetch: Send;
  headers: Record<string, string>;
};

export class Transport {
  readonly baseUrl: string;
  readonly routes: Routes<paths, "application/json">;
  readonly maxRetryWait: number;
  readonly #headers: Record<string, string>;
  readonly #timeout: number;
  readonly #maxRetries: number;
  readonly #send: Send;

  constructor(options: ClientOptions) {
    const page = typeof location === "undefined" ? DEFAULT_URL : location.origin;
    this.baseUrl = (options.baseUrl ?? environment("MANYHATS_URL") ?? page).replace(/\/+$/, "");
    const key = options.apiKey ?? environment("MANYHATS_API_KEY");
    this.#headers = { ...(key ? { authorization: `Bearer ${key}` } : {}), ...options.headers };
    this.#timeout = options.timeout ?? TIMEOUT;
    this.#maxRetries = options.maxRetries ?? MAX_RETRIES;
    this.maxRetryWait = options.maxRetryWait ?? MAX_RETRY_WAIT;
    this.#send = options.fetch ?? ((request) => fetch(request));
    this.routes = createClient<paths, "application/json">({ baseUrl: this.baseUrl });
  }

  /** How a call of `routes` is sent. `stream`: its body is read by the caller, piece by piece. */
  call(options: CallOptions = {}, stream = false): Call {
    return this.callOf((request) => request.clone(), options, { stream });
  }

  /** The same for requests that `make` makes anew for each try. `send`: in place of the platform's own. */
  callOf(
    make: (first: Request) => Request,
    options: CallOptions,
    { stream = false, send = this.#send }: { stream?: boolean; send?: Send } = {},
  ): Call {
    return {
      fetch: (first) => this.#retried(() => make(first), options, stream, send),
      headers: { ...this.#headers, ...options.headers },
    };
  }

  /** How often `options` have something tried again. */
  retriesOf(options: CallOptions): number {
    return options.maxRetries ?? this.#maxRetries;
  }

  async #retried(make: () => Request, options: CallOptions, stream: boolean, send: Send): Promise<Response> {
    for (let tried = 1; ; tried++) {
      try {
        return await this.#once(make(), options, stream, send);
      } catch (error) {
        const pause =
          tried > this.retriesOf(options) ? undefined : pauseAfter(error, tried, this.maxRetryWait);
        if (pause === undefined) throw error;
        await sleep(pause, options.signal);
      }
    }
  }

  async #once(request: Request, options: CallOptions, stream: boolean, send: Send): Promise<Response> {
    options.signal?.throwIfAborted(); // some ways to send hear only of what comes later
    const deadline = new Deadline(options.timeout ?? this.#timeout, options.signal);
    try {
      const response = await deadline.of(() => send(new Request(request, { signal: deadline.signal })));
      if (!response.ok) throw await deadline.of(() => errorOf(response));
      const { status, headers } = response;
      if (stream && response.body) return new Response(watched(response.body, deadline), { status, headers });
      const body = await deadline.of(() => response.arrayBuffer());
      deadline.release();
      return new Response(body.byteLength ? body : null, { status, headers });
    } catch (error) {
      deadline.release();
      throw deadline.meaningOf(error);
    }
  }
}

/** The body of an answer in order. Rejects where the answer is no JSON, which only other servers' are. */
export async function bodyOf<T>(answer: Promise<{ data?: T }>): Promise<T> {
  try {
    const { data } = await answer;
    if (data !== undefined) return data;
  } catch (error) {
    if (error instanceof SyntaxError) throw new InvalidAnswer(`the answer is no JSON: ${error.message}`);
    throw error;
  }
  throw new InvalidAnswer("the answer has no body");
}

/** Ends a request that takes too long, or that its caller gives up. */
class Deadline {
  readonly #timeout: number;
  readonly #caller: AbortSignal | undefined;
  readonly #linked: Linked;

  constructor(timeout: number, caller: AbortSignal | undefined) {
    this.#timeout = timeout;
    this.#caller = caller;
    this.#linked = linkedTo(caller);
  }

  get signal(): AbortSignal {
    return this.#linked.signal;
  }

  /** Does a part of the work within the time. */
  async of<T>(work: () => Promise<T>): Promise<T> {
    const { signal } = this;
    const late = () => this.#linked.abort(new Timeout(`no answer within ${this.#timeout} ms`));
    const timer = this.#timeout > 0 ? setTimeout(late, this.#timeout) : undefined;
    let end = () => {};
    // Node's fetch may lose a signal once its request is collected as garbage.
    const ended = new Promise<never>((_, reject) => {
      end = () => reject(signal.reason);
      signal.addEventListener("abort", end);
    });
    try {
      return await Promise.race([work(), ended]);
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", end);
    }
  }

  /** Nothing more is waited for. */
  release(): void {
    this.#linked.release();
  }

  /** What a failure of the platform means. */
  meaningOf(error: unknown): unknown {
    if (this.#caller?.aborted) return this.#caller.reason;
    if (this.signal.reason instanceof Timeout) return this.signal.reason;
    if (error instanceof ManyhatsError) return error;
    const cause = error instanceof Error ? error.cause : undefined;
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    const about = cause instanceof Error ? cause.message || code : String(error);
    return new ConnectionFailed(`no answer: ${about}`, !NEVER_MADE.has(code), { cause: error });
  }
}

/** A body whose every next piece comes within the time. */
function watched(
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  deadline: Deadline,
): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  const leave = (reason?: unknown) => {
    deadline.release();
    return reader.cancel(reason).catch(() => undefined); // it has failed already
  };
  // As above: the signal alone may not reach what reads.
  deadline.signal.addEventListener("abort", () => leave(deadline.signal.reason), { once: true });
  return new ReadableStream({
    async pull(controller) {
      try {
        const { done, value } = await deadline.of(() => reader.read());
        deadline.signal.throwIfAborted();
        if (!done) return controller.enqueue(value);
        deadline.release();
        controller.close();
      } catch (error) {
        deadline.release();
        controller.error(deadline.meaningOf(error));
      }
    },
    cancel: leave,
  });
}

function environment(name: string): string | undefined {
  const known = globalThis as { process?: { env?: Record<string, string | undefined> } };
  return known.process?.env?.[name] || undefined;
}
