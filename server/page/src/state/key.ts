// The key that requests are sent with: in this tab alone, and gone with it.
import { effect, signal } from "@preact/signals";

const NAME = "manyhats-key";

export const key = signal(sessionStorage.getItem(NAME) ?? "");
/** The last answer that asked for another key. */
export const keyRefused = signal<Error | null>(null);
/** Whether the dialog that asks for the key is open. */
export const keyAsked = signal(false);

effect(() => {
  if (key.value) sessionStorage.setItem(NAME, key.value);
  else sessionStorage.removeItem(NAME);
});

export function setKey(given: string): void {
  keyRefused.value = null;
  key.value = given.trim();
}
