// How requests are shared out between the versions of an alias.
import type { Aliases, Target } from "../server/types";

/** Shares in per cent, for sliders. */
export function shares(target: Aliases[string]): Target[] {
  if (typeof target === "number") return [{ version: target, weight: 100 }];
  const sum = target.reduce((total, { weight }) => total + weight, 0);
  return target.map(({ version, weight }) => ({ version, weight: (100 * weight) / sum }));
}

/** The same split with another share for one version; of two, the other gets the rest. */
export function withShare(split: Target[], index: number, weight: number): Target[] {
  const rest = split.length === 2 ? 100 - weight : null;
  return split.map((target, i) => (i === index ? { ...target, weight } : rest === null ? target : { ...target, weight: rest }));
}

/** The share of each, of all. */
export function fractions(split: Target[]): number[] {
  const sum = split.reduce((total, { weight }) => total + weight, 0);
  return split.map(({ weight }) => (sum ? weight / sum : 0));
}

/** What the server is sent: one version, or those that get anything. Null where nothing would. */
export function body(split: Target[]): { version: number } | { split: Target[] } | null {
  const kept = split.filter(({ weight }) => weight > 0);
  const [only] = kept;
  if (!only) return null;
  return kept.length === 1 ? { version: only.version } : { split: kept };
}
