// What is known of the tasks that are chosen.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { body, server } from "../server/client";
import type { Task } from "../server/types";
import { key } from "../state/key";

interface Known {
  task?: Task;
  /** Why nothing is known. */
  missing?: string;
}

export const known = signal<Record<string, Known>>({});

/** Asks for what is not known yet of these tasks. */
export function useFacts(names: string[]): void {
  const wanted = names.join("\n");
  const holder = key.value;
  useEffect(() => {
    const stop = new AbortController();
    for (const name of names) void learn(name, stop.signal);
    return () => stop.abort();
  }, [wanted, holder]);
}

/** Asks what is known of a task; what went wrong is known then too. */
export async function learn(name: string, signal?: AbortSignal): Promise<Known> {
  let found: Known;
  try {
    const params = { path: { task: name } };
    found = { task: await body(server.GET("/v1/tasks/{task}", { params, ...(signal && { signal }) })) };
  } catch (error) {
    if (signal?.aborted) return {};
    found = { missing: (error as Error).message };
  }
  known.value = { ...known.value, [name]: found };
  return found;
}

/** The kind of a task; undefined while it is not known. */
export function kindOf(name: string, baseKind: string): string | undefined {
  if (name === "base" && baseKind) return baseKind;
  return known.value[name]?.task?.kind ?? undefined;
}
