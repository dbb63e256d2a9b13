// A curve the size of a word.

interface Props {
  values: (number | null)[];
  /** What it shows, in words: instead of the picture for those who do not see it. */
  label: string;
  /** The top of the picture; else the largest value. */
  top?: number;
}

const WIDTH = 72;
const HEIGHT = 20;
const PAD = 1.5;

export function Sparkline({ values, label, top }: Props) {
  const highest = Math.max(top ?? 0, ...values.map((value) => value ?? 0)) || 1;
  const x = (i: number) => ((i * WIDTH) / Math.max(values.length - 1, 1)).toFixed(1);
  const y = (value: number) => (HEIGHT - PAD - (value / highest) * (HEIGHT - 2 * PAD)).toFixed(1);
  return (
    <svg class="spark" role="img" aria-label={label} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
      {runs(values).map((run) => {
        const points = run.map(([i, value]) => `${x(i)},${y(value)}`);
        const [first] = run;
        // One value alone is a dot: a line of no length with round ends.
        if (points.length === 1 && first) points.push(`${(Number(x(first[0])) + 0.01).toFixed(2)},${y(first[1])}`);
        return <polyline key={run[0]?.[0]} class={run.length === 1 ? "dot" : undefined} points={points.join(" ")} />;
      })}
    </svg>
  );
}

/** The stretches of values without a gap, each value with its place. */
export function runs(values: (number | null | undefined)[]): [number, number][][] {
  const found: [number, number][][] = [];
  let open: [number, number][] | null = null;
  values.forEach((value, i) => {
    if (value === null || value === undefined || !Number.isFinite(value)) {
      open = null;
    } else {
      if (!open) found.push((open = []));
      open.push([i, value]);
    }
  });
  return found;
}
