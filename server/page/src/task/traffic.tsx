import { Chart } from "../parts/chart";
import { count, counted, ms } from "../parts/format";
import { body, server } from "../server/client";
import type { Traffic } from "../server/types";
import { usePoll } from "../state/poll";

/** The last five minutes of a task. */
export function TrafficPanel({ name }: { name: string }) {
  const polled = usePoll(name, (signal) => body(server.GET("/v1/traffic", { params: { query: { task: [name] } }, signal })));
  const traffic = polled.value.value;
  const series = traffic?.data[0];
  return (
    <section class="panel" aria-labelledby="traffic">
      <h2 id="traffic">The last five minutes</h2>
      {polled.error.value && <p class="bad-text">{polled.error.value.message}</p>}
      {traffic && !series && <p class="soft">Nothing was asked.</p>}
      {traffic && series && <Curves series={series} interval={traffic.interval_seconds} />}
    </section>
  );
}

function Curves({ series, interval }: { series: Traffic["data"][number]; interval: number }) {
  // The newest interval is not over yet: it would always look like a fall.
  const over = <T,>(values: T[]) => values.slice(0, -1);
  const x = over(series.requests).map((_, i, all) => (i - all.length) * interval);
  const sum = (numbers: number[]) => numbers.reduce((total, n) => total + n, 0);
  const requests = { name: "requests", values: over(series.requests) };
  const failed = sum(series.failed);
  return (
    <div class="stack">
      <p>{counted(sum(series.requests), "request")}, {failed ? <span class="bad-text">{count(failed)} failed</span> : "none failed"}.</p>
      <div class="columns">
        <Chart title={`Requests in ${interval} s`} unit="seconds" x={x} format={count} fromZero
          lines={failed ? [requests, { name: "failed", values: over(series.failed) }] : [requests]} />
        {over(series.mean_ms).some((value) => value !== null) && (
          <Chart title="Latency" unit="seconds" x={x} format={ms} fromZero
            lines={[{ name: "mean", values: over(series.mean_ms) }, { name: "longest", values: over(series.max_ms) }]} />
        )}
      </div>
    </div>
  );
}
