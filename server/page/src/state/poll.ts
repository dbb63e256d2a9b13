// Figures that stay fresh: asked for again and again while somebody looks at the page.
import { useSignal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { key } from "./key";

export interface Polled<T> {
  /** The last answer; undefined before the first. */
  value: ReadonlySignal<T | undefined>;
  /** Why the last attempt failed; undefined where it did not. */
  error: ReadonlySignal<Error | undefined>;
  /** Asks at once. */
  refresh: () => void;
}

/**
 * Calls `ask` now, every `seconds`, when the tab is seen again, and with another key. `what` names what is asked for:
 * with another name the old answer goes.
 */
export function usePoll<T>(what: string, ask: (signal: AbortSignal) => Promise<T>, seconds = 5): Polled<T> {
  const value = useSignal<T | undefined>(undefined);
  const error = useSignal<Error | undefined>(undefined);
  const now = useRef<() => void>(() => {});
  const latest = useRef(ask);
  latest.current = ask;
  const holder = key.value;

  useEffect(() => {
    let current = new AbortController();
    let timer = 0;
    const stop = () => {
      clearTimeout(timer);
      current.abort();
    };
    const run = async () => {
      stop();
      const { signal } = (current = new AbortController());
      try {
        const answer = await latest.current(signal);
        if (signal.aborted) return; // a newer one is on its way, or nobody looks
        value.value = answer;
        error.value = undefined;
      } catch (failure) {
        if (signal.aborted) return;
        error.value = failure as Error;
      }
      if (!document.hidden) timer = window.setTimeout(run, seconds * 1000);
    };
    const seen = () => {
      if (document.hidden) stop();
      else void run();
    };
    now.current = () => void run();
    document.addEventListener("visibilitychange", seen);
    void run();
    return () => {
      stop();
      document.removeEventListener("visibilitychange", seen);
      value.value = undefined;
      error.value = undefined;
    };
  }, [what, seconds, holder]);

  return { value, error, refresh: () => now.current() };
}
