import { bytes, count, ms, rate } from "../parts/format";
import { QuarantineBadge } from "../parts/quarantine";
import { ResidencyBadge } from "../parts/residency";
import { Sparkline } from "../parts/sparkline";
import { to } from "../router";
import type { Series, TaskSummary } from "../server/types";
import { lastMean, perMinute } from "./series";

interface Props {
  task: TaskSummary;
  /** Undefined: nothing was asked. */
  series: Series | undefined;
  /** Seconds. */
  interval: number;
}

export function TaskRow({ task, series, interval }: Props) {
  const requests = series?.requests.reduce((sum, n) => sum + n, 0) ?? 0;
  const failed = series?.failed.reduce((sum, n) => sum + n, 0) ?? 0;
  return (
    <tr>
      <th scope="row" class="name">
        <a href={to("tasks", task.name)}>{task.name}</a>
        <QuarantineBadge of={task} />
        <span class="narrow soft">{task.kind ?? "no version"}{task.method && `, ${task.method}`}</span>
      </th>
      <td class="wide">{task.kind ?? "–"}</td>
      <td class="wide">{task.method ?? "–"}</td>
      <td class="wide num">{task.version ?? "–"}</td>
      <td class="wide num">{bytes(task.bytes)}</td>
      <td><ResidencyBadge of={task.residency} /></td>
      <td class="num">
        {series ? (
          <span class="figure">
            <Sparkline values={series.requests.slice(0, -1)} label={`Requests in five minutes: ${count(requests)}, ${count(failed)} failed`} />
            <span class={failed ? "bad-text" : undefined}>{rate(perMinute(series.requests, interval))}</span>
          </span>
        ) : <span class="soft">–</span>}
      </td>
      <td class="num">
        {series ? (
          <span class="figure">
            <Sparkline values={series.mean_ms.slice(0, -1)} label={`Mean latency: ${ms(lastMean(series))} lately`} />
            <span>{ms(lastMean(series))}</span>
          </span>
        ) : <span class="soft">–</span>}
      </td>
    </tr>
  );
}
