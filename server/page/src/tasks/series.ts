// Numbers out of the last minutes' series.
import type { Series } from "../server/types";

const RECENT = 12; // intervals: a minute

/** Requests a minute, over the last minute and the interval that is not over yet. */
export function perMinute(requests: number[], interval: number): number {
  const recent = requests.slice(-RECENT);
  return (recent.reduce((sum, n) => sum + n, 0) * 60) / (recent.length * interval || 1);
}

/** The mean milliseconds of the newest interval that has one. */
export function lastMean(series: Series): number | null {
  return series.mean_ms.findLast((value) => value !== null) ?? null;
}
