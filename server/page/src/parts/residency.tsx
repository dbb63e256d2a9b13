import type { Residency } from "../server/types";

const WORDS: Record<Residency, string> = { slot: "in a slot", memory: "in memory", disk: "on disk" };

/** Where a task's adapter is now. */
export function ResidencyBadge({ of }: { of: Residency }) {
  return <span class={`badge ${of}`}>{WORDS[of]}</span>;
}
