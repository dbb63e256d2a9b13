// Which view is shown: the part of the address behind `#`, so that the server has one page at any path of a proxy's.
import { computed, signal } from "@preact/signals";

const fragment = signal(location.hash);

addEventListener("hashchange", () => {
  fragment.value = location.hash;
});

export interface Route {
  /** The first part: which view. */
  view: string;
  /** What follows it, decoded. */
  rest: string[];
}

export const route = computed<Route>(() => {
  const [view = "", ...rest] = fragment.value.replace(/^#?\/?/, "").split("/").map(decoded);
  return { view: view || "tasks", rest };
});

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray per cent sign
  }
}

/** The address of a view. */
export function to(...parts: string[]): string {
  return "#/" + parts.map(encodeURIComponent).join("/");
}

export function go(...parts: string[]): void {
  location.hash = to(...parts);
}
