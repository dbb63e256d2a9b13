// Many questions, some of them at a time.

import {
  APIError,
  AuthenticationError,
  BadRequest,
  errorFrom,
  type ManyhatsError,
  PermissionDenied,
  ServerError,
  Timeout,
  TooLarge,
} from "./errors.js";
import { linkedTo } from "./linked.js";
import { isRefusal, pauseAfter, sleep } from "./retries.js";
import { bodyOf, type Transport } from "./transport.js";
import type { CallOptions, Failure, Question, Result } from "./types.js";

const OF_ALL = [AuthenticationError, PermissionDenied];
// What one question may have brought upon all that were asked with it.
const OF_ONE = [BadRequest, TooLarge, ServerError];

export type Source<T> = Iterable<T> | AsyncIterable<T>;

/** Items in lists whose sizes add up to at most `most`; one that is larger comes alone. */
export async function* batches<T>(
  source: Source<T>,
  most: number,
  size: (item: T) => number,
): AsyncGenerator<T[]> {
  let batch: T[] = [];
  let total = 0;
  for await (const item of source) {
    if (batch.length && total + size(item) > most) {
      yield batch;
      batch = [];
      total = 0;
    }
    batch.push(item);
    total += size(item);
    if (total >= most) {
      yield batch;
      batch = [];
      total = 0;
    }
  }
  if (batch.length) yield batch;
}

/**
 * The results of `work`, in the order of the items, at most `concurrency` of them under way. No item is taken before
 * there is room for it. Whoever stops before the end has the rest ended by the signal that `work` gets.
 */
export async function* inOrder<T, R>(
  source: AsyncGenerator<T>,
  concurrency: number,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  caller?: AbortSignal,
): AsyncGenerator<R> {
  if (!(concurrency >= 1)) throw new RangeError(`concurrency is at least 1, not ${concurrency}`);
  const { signal, abort, release } = linkedTo(caller);
  const waiting: Promise<R>[] = [];
  try {
    let more = true;
    let failed: { error: unknown } | undefined;
    while (more || waiting.length) {
      while (more && waiting.length < concurrency) {
        try {
          const next = await source.next();
          if (next.done) more = false;
          else {
            const result = work(next.value, signal);
            result.catch(() => undefined); // is thrown when it is its turn
            waiting.push(result);
          }
        } catch (error) {
          failed = { error }; // of the source, behind the answers to what it gave before
          more = false;
        }
      }
      const first = waiting.shift();
      if (first !== undefined) yield await first;
    }
    if (failed) throw failed.error;
  } finally {
    release();
    abort();
    await source.return(undefined);
  }
}

/** What lies on pages, one page after the other. */
export async function* pages<T>(
  fetch: (token: { page_token?: string }) => Promise<{ data: T[]; next_page_token: string | null }>,
): AsyncGenerator<T, void> {
  let token: string | null = null;
  do {
    const page = await fetch(token ? { page_token: token } : {});
    yield* page.data;
    token = page.next_page_token;
  } while (token);
}

/** How many inputs a question has. */
export function inputsOf(question: Question): number {
  return Array.isArray(question.inputs) ? question.inputs.length : 1;
}

/**
 * An answer or a failure for each question. Rejects with what concerns all: a server that is not there or none of
 * Manyhats', and a key that may not ask.
 */
export async function answersTo(
  transport: Transport,
  questions: Question[],
  options: CallOptions,
): Promise<Result[]> {
  const results = await askedOnce(transport, questions, options);
  for (let tried = 1; tried <= transport.retriesOf(options); tried++) {
    const again = results.filter(
      (result) => result.kind === "failure" && isRefusal(result.error),
    ) as Failure[];
    const pause = again[0] && pauseAfter(again[0].error, tried, transport.maxRetryWait);
    if (pause === undefined) break;
    await sleep(pause, options.signal);
    const second = await askedOnce(
      transport,
      again.map((failure) => failure.question),
      options,
    );
    again.forEach((failure, i) => {
      results[results.indexOf(failure)] = second[i] as Result;
    });
  }
  return results;
}

async function askedOnce(
  transport: Transport,
  questions: Question[],
  options: CallOptions,
): Promise<Result[]> {
  try {
    const body = { requests: questions };
    const { results } = await bodyOf(
      transport.routes.POST("/v1/predict", { body, ...transport.call(options) }),
    );
    return results.map((result, i) =>
      "error" in result ? failure(questions[i] as Question, errorFrom(result.error)) : result,
    );
  } catch (error) {
    if (
      !(error instanceof APIError || error instanceof Timeout) ||
      OF_ALL.some((kind) => error instanceof kind)
    ) {
      throw error;
    }
    if (questions.length > 1 && OF_ONE.some((kind) => error instanceof kind)) {
      // Halves, until the one at fault is alone.
      const half = questions.length >> 1;
      const first = await askedOnce(transport, questions.slice(0, half), options);
      return [...first, ...(await askedOnce(transport, questions.slice(half), options))];
    }
    return questions.map((question) => failure(question, error));
  }
}

function failure(question: Question, error: ManyhatsError): Failure {
  return { kind: "failure", question, error };
}
