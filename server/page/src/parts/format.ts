// Numbers, times and sizes as text.

const whole = new Intl.NumberFormat("en");
const dates = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

export function count(n: number): string {
  return whole.format(n);
}

/** `one thing`, `3 things`. */
export function counted(n: number, one: string, many = one + "s"): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function bytes(n: number): string {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]] as const) {
    if (n >= size) return `${(n / size).toFixed(n >= 10 * size ? 0 : 1)} ${unit}`;
  }
  return `${n} B`;
}

/** Requests a minute. */
export function rate(n: number): string {
  return n >= 10 ? count(Math.round(n)) : short(n);
}

/** Milliseconds, with about three digits. */
export function ms(n: number | null): string {
  if (n === null) return "–";
  if (n >= 10_000) return `${(n / 1000).toFixed(1)} s`;
  return `${n < 10 && n > 0 ? n.toFixed(1) : n.toFixed(0)} ms`;
}

/** A number with about three digits. */
export function short(n: number): string {
  if (Number.isInteger(n)) return whole.format(n);
  const size = Math.abs(n);
  if (size >= 100) return whole.format(Math.round(n));
  if (size >= 10) return n.toFixed(1);
  if (size >= 0.01) return n.toFixed(2);
  return n.toPrecision(2);
}

export function percent(share: number): string {
  const n = 100 * share;
  return `${n > 0 && n < 1 ? n.toFixed(1) : Math.round(n)} %`;
}

/** `seconds` since 1970. */
export function date(seconds: number): string {
  return dates.format(seconds * 1000);
}

export function timeOfDay(seconds: number): string {
  return clock.format(seconds * 1000);
}

export function duration(seconds: number): string {
  if (seconds < 90) return counted(Math.round(seconds), "second");
  if (seconds < 90 * 60) return counted(Math.round(seconds / 60), "minute");
  if (seconds < 36 * 3600) return counted(Math.round(seconds / 3600), "hour");
  return counted(Math.round(seconds / 86400), "day");
}
