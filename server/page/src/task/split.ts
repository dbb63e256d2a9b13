// How requests are shared out between the versions of an alias.
import type { AliasBody, Aliases, Rollout, Target } from "../server/types";

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

/** What an alias has besides its versions, and may keep with this split. The server forgets what it is not sent. */
export function kept(rollout: Rollout | undefined, split: Target[]): Partial<AliasBody> {
  if (!rollout) return {};
  const versions = split.filter(({ weight }) => weight > 0).map(({ version }) => version);
  const { affinity, shadow, canary } = rollout;
  const body: Partial<AliasBody> = { affinity };
  if (shadow && !versions.includes(shadow.version)) {
    body.shadow = { version: shadow.version, fraction: shadow.fraction, tolerance: shadow.tolerance };
  }
  if (canary && versions.length > 1 && versions.includes(canary.version)) {
    const { version, max_error_rate, max_latency_ratio, max_p95_ms, min_requests, window_seconds } = canary;
    body.canary = { version, max_error_rate, max_latency_ratio, max_p95_ms, min_requests, window_seconds };
  }
  return body;
}

/** What the server is sent: one version, or those that get anything. Null where nothing would. */
export function bodyOf(split: Target[]): AliasBody | null {
  const kept = split.filter(({ weight }) => weight > 0);
  const [only] = kept;
  if (!only) return null;
  return kept.length === 1 ? { version: only.version } : { split: kept };
}
