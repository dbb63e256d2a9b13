// One question at a time, which can be stopped.
import { useSignal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Refused } from "../server/client";

export interface Asking {
  busy: ReadonlySignal<boolean>;
  /** What came of the last question, in words; empty before the first. */
  outcome: ReadonlySignal<string>;
  failed: ReadonlySignal<boolean>;
  /** Asks; `ask` gives the outcome in words. */
  start: (ask: (signal: AbortSignal) => Promise<string>, waiting: string) => void;
  stop: () => void;
}

export function useAsking(): Asking {
  const busy = useSignal(false);
  const outcome = useSignal("");
  const failed = useSignal(false);
  const under = useRef<AbortController | null>(null);
  useEffect(() => () => under.current?.abort(), []);

  const start: Asking["start"] = async (ask, waiting) => {
    const controller = new AbortController();
    under.current = controller;
    busy.value = true;
    failed.value = false;
    outcome.value = waiting;
    try {
      outcome.value = await ask(controller.signal);
    } catch (error) {
      failed.value = !controller.signal.aborted;
      // Where another key would help, the frame says so.
      outcome.value = controller.signal.aborted ? "Stopped." : error instanceof Refused && error.wantsKey ? "" : (error as Error).message;
    } finally {
      busy.value = false;
    }
  };
  return { busy, outcome, failed, start: (...given) => void start(...given), stop: () => under.current?.abort() };
}
