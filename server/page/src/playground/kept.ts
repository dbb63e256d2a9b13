// What a view keeps in this tab, so that loading the page again loses nothing.
import { effect, signal, type Signal } from "@preact/signals";

const PREFIX = "manyhats-playground-";

/** A signal whose value outlives a reload. */
export function kept<T>(name: string, initial: T): Signal<T> {
  const held = signal<T>(stored(PREFIX + name, initial));
  effect(() => {
    const written = JSON.stringify(held.value);
    try {
      sessionStorage.setItem(PREFIX + name, written);
    } catch {
      sessionStorage.removeItem(PREFIX + name); // more than a browser keeps: better nothing than what was before
    }
  });
  return held;
}

function stored<T>(name: string, initial: T): T {
  try {
    return JSON.parse(sessionStorage.getItem(name) ?? "") as T;
  } catch {
    return initial; // nothing there yet
  }
}
