// One question at a time, which can be stopped.
import { useSignal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Refused } from "../server/client";

/** What came of a question, in words. */
export interface Outcome {
  shown: string;
  /** Read out besides, by a screen reader. */
  read?: string;
  bad?: boolean;
}

export interface Asking {
  busy: ReadonlySignal<boolean>;
  /** Of the last question. */
  outcome: ReadonlySignal<Outcome>;
  start: (ask: (signal: AbortSignal) => Promise<Outcome>, waiting: string) => void;
  stop: () => void;
}

export function useAsking(): Asking {
  const busy = useSignal(false);
  const outcome = useSignal<Outcome>({ shown: "" });
  const under = useRef<AbortController | null>(null);
  useEffect(() => () => under.current?.abort(), []);

  const start: Asking["start"] = async (ask, waiting) => {
    const controller = new AbortController();
    under.current = controller;
    busy.value = true;
    outcome.value = { shown: waiting };
    try {
      outcome.value = await ask(controller.signal);
    } catch (error) {
      const said = error instanceof Refused && error.wantsKey; // by the frame, which asks for another key
      outcome.value = controller.signal.aborted ? { shown: "Stopped." } : { shown: said ? "" : (error as Error).message, bad: true };
    } finally {
      busy.value = false;
    }
  };
  return { busy, outcome, start: (...given) => void start(...given), stop: () => under.current?.abort() };
}
