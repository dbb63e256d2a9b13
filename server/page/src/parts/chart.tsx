// Curves with axes, drawn as SVG; the same numbers stand in a table below.
import { useSignal } from "@preact/signals";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { short } from "./format";
import { runs } from "./sparkline";

export interface Line {
  name: string;
  /** One for each x; null leaves a gap. */
  values: (number | null)[];
}

interface Props {
  title: string;
  /** What the x are: "step", "seconds ago". */
  unit: string;
  x: number[];
  lines: Line[];
  /** How a value is written; the unit with it. */
  format?: (value: number) => string;
  /** Whether the y axis begins at zero. */
  fromZero?: boolean;
  /** An x that is marked, and the word for it. */
  mark?: { x: number; name: string };
}

const HEIGHT = 180;
const LEFT = 56;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;

export function Chart({ title, unit, x, lines, format = short, fromZero = false, mark }: Props) {
  const id = useId();
  const frame = useRef<HTMLElement>(null);
  const width = useWidth(frame);
  const values = lines.flatMap((line) => line.values.filter((value): value is number => value !== null));
  const low = fromZero ? 0 : Math.min(...values);
  const ticks = steps(values.length ? low : 0, values.length ? Math.max(...values) : 1);
  const [bottom = 0, top = 1] = [ticks[0], ticks[ticks.length - 1]];
  const [first = 0, last = 1] = [x[0], x[x.length - 1]];
  const atX = (value: number) => LEFT + ((value - first) / (last - first || 1)) * (width - LEFT - RIGHT);
  const atY = (value: number) => HEIGHT - BOTTOM - ((value - bottom) / (top - bottom || 1)) * (HEIGHT - TOP - BOTTOM);
  const ends = lines.map((line) => `${line.name}: ${summary(line.values, format)}`).join("; ");

  return (
    <figure ref={frame} class="chart" aria-labelledby={id}>
      <figcaption id={id}>
        <span class="label">{title}</span>
        <span class="legend">
          {lines.map((line, i) => <span key={line.name} class={`series s${i + 1}`}>{line.name}</span>)}
        </span>
      </figcaption>
      <svg role="img" aria-label={`${title}, by ${unit}. ${ends}`} viewBox={`0 0 ${width} ${HEIGHT}`}>
        {ticks.map((tick) => (
          <g key={tick}>
            <line class="grid" x1={LEFT} x2={width - RIGHT} y1={atY(tick)} y2={atY(tick)} />
            <text class="tick" x={LEFT - 6} y={atY(tick) + 3.5} text-anchor="end">{format(tick)}</text>
          </g>
        ))}
        <text class="tick" x={LEFT} y={HEIGHT - 6}>{short(first).replace("-", "−")}</text>
        <text class="tick" x={(LEFT + width - RIGHT) / 2} y={HEIGHT - 6} text-anchor="middle">{unit}</text>
        <text class="tick" x={width - RIGHT} y={HEIGHT - 6} text-anchor="end">{short(last).replace("-", "−")}</text>
        {mark && (
          <g>
            <line class="mark" x1={atX(mark.x)} x2={atX(mark.x)} y1={TOP} y2={HEIGHT - BOTTOM} />
            <text class="tick" x={atX(mark.x) - 4} y={TOP + 8} text-anchor="end">{mark.name}</text>
          </g>
        )}
        {lines.map((line, i) => (
          <g key={line.name} class={`line s${i + 1}`}>
            {runs(line.values).map((run) => run.length === 1
              ? run.map(([j, value]) => <circle key={j} cx={atX(x[j] ?? 0)} cy={atY(value)} r="2.5" />)
              : <polyline key={run[0]?.[0]} points={run.map(([j, value]) => `${atX(x[j] ?? 0).toFixed(1)},${atY(value).toFixed(1)}`).join(" ")} />)}
          </g>
        ))}
      </svg>
      <details>
        <summary>Numbers</summary>
        <div class="scroll tall" tabIndex={0} role="group" aria-label={`${title}: numbers`}>
          <table>
            <thead>
              <tr><th scope="col" class="num">{unit}</th>{lines.map((line) => <th key={line.name} scope="col" class="num">{line.name}</th>)}</tr>
            </thead>
            <tbody>
              {x.map((at, i) => (
                <tr key={at}>
                  <th scope="row" class="num">{short(at)}</th>
                  {lines.map((line) => {
                    const value = line.values[i];
                    return <td key={line.name} class="num">{value === null || value === undefined ? "–" : format(value)}</td>;
                  })}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </figure>
  );
}

/** How wide an element is, in pixels: what is drawn in it is drawn to scale, with letters of one size. */
function useWidth(element: { current: HTMLElement | null }): number {
  const width = useSignal(480);
  useLayoutEffect(() => {
    const { current } = element;
    if (!current) return undefined;
    const observer = new ResizeObserver(([entry]) => {
      if (entry && entry.contentRect.width) width.value = Math.round(entry.contentRect.width);
    });
    observer.observe(current);
    return () => observer.disconnect();
  }, []);
  return width.value;
}

function summary(values: (number | null)[], format: (value: number) => string): string {
  const known = values.filter((value): value is number => value !== null);
  const last = known[known.length - 1];
  if (last === undefined) return "nothing";
  return `from ${format(Math.min(...known))} to ${format(Math.max(...known))}, last ${format(last)}`;
}

/** Three to six round numbers that reach from `low` to `high`. */
function steps(low: number, high: number): number[] {
  const range = high - low || Math.abs(high) || 1;
  const rough = range / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const found: number[] = [];
  for (let i = Math.floor(low / step + 1e-9); ; i++) {
    found.push(i * step);
    if (i * step >= high - 1e-9 * step || found.length > 8) return found.length > 1 ? found : [...found, (i + 1) * step];
  }
}
