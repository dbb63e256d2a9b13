// When a request is tried again, and how long to wait before.

import { APIError, ConnectionFailed } from "./errors.js";

const FIRST = 500; // milliseconds
const LONGEST = 8000; // milliseconds, of the client's own choice

/** Whether the server has refused the request for now. */
export function isRefusal(error: unknown): error is APIError {
  return error instanceof APIError && (error.status === 429 || error.status === 503);
}

/**
 * Milliseconds to wait after `tried` tries, or undefined to give up.
 *
 * Only what the server cannot have acted on is tried again: a refusal, and a connection that was never made.
 */
export function pauseAfter(error: unknown, tried: number, longest: number): number | undefined {
  const refused = isRefusal(error);
  if (!refused && !(error instanceof ConnectionFailed && !error.sent)) return undefined;
  if (!refused || error.retryAfter === null) {
    return Math.min(FIRST * 2 ** (tried - 1), LONGEST, longest) * (0.5 + Math.random() / 2);
  }
  const wanted = error.retryAfter * 1000;
  if (wanted > longest) return undefined;
  // A little later than asked, so that not all who got the same answer return together.
  return Math.min(wanted + (Math.random() / 4) * Math.max(wanted, FIRST), longest);
}

/** Waits; rejects with the signal's reason where that comes first. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const end = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", end);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", end, { once: true });
  });
}
