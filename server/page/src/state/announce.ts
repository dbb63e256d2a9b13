// What has happened, said once: shown for a while, and read out by a screen reader.
import { signal } from "@preact/signals";

export interface Message {
  id: number;
  text: string;
  bad: boolean;
}

const SECONDS = 8;
let last = 0;
export const messages = signal<Message[]>([]);

export function announce(text: string, bad = false): void {
  const id = ++last;
  messages.value = [...messages.value.slice(-3), { id, text, bad }];
  if (!bad) setTimeout(() => dismiss(id), SECONDS * 1000);
}

export function dismiss(id: number): void {
  messages.value = messages.value.filter((message) => message.id !== id);
}

/** Says what went wrong. */
export function announceError(error: unknown): void {
  announce(error instanceof Error ? error.message : String(error), true);
}
