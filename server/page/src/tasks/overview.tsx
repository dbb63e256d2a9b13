// The server at one look.
import { bytes, count, counted, duration, ms, rate } from "../parts/format";
import { Sparkline } from "../parts/sparkline";
import { to } from "../router";
import { body, server } from "../server/client";
import type { Overview, Traffic } from "../server/types";
import { usePoll } from "../state/poll";
import { lastMean, perMinute } from "./series";

const BUSIEST = 5;

interface Now {
  overview: Overview;
  traffic: Traffic | null; // where the server shows it
}

async function load(signal: AbortSignal): Promise<Now> {
  const [overview, traffic] = await Promise.all([
    body(server.GET("/v1/overview", { signal })),
    body(server.GET("/v1/traffic", { params: { query: { limit: BUSIEST } }, signal })).catch(() => null),
  ]);
  return { overview, traffic };
}

export function OverviewStrip() {
  const now = usePoll("overview", load).value.value;
  if (!now) return <div class="strip" aria-hidden="true" />;
  const { overview, traffic } = now;
  const { slots, memory } = overview;
  const busiest = (traffic?.data ?? [])
    .map(({ task, requests }) => ({ task, perMinute: perMinute(requests, traffic?.interval_seconds ?? 1) }))
    .filter(({ perMinute }) => perMinute > 0); // the others were asked earlier
  return (
    <section class="strip" aria-label="The server">
      <dl>
        <Figure name="Backbone" note={`${overview.device}, up ${duration(overview.uptime_seconds)}`}>{overview.backbone}</Figure>
        <Figure name="Tasks" note={overview.quarantined_versions ? `${counted(overview.quarantined_versions, "version")} not asked` : undefined}>{count(overview.tasks)}</Figure>
        <Figure name="In slots" note={`${bytes(slots.bytes)} of ${bytes(slots.bytes_limit)}`}>{count(slots.adapters)}</Figure>
        <Figure name="In memory" note={`${bytes(memory.bytes)} of ${bytes(memory.bytes_limit)}`}>{count(memory.adapters)}</Figure>
        <Figure name="Inputs waiting" note={`${count(overview.loads)} loads, ${count(overview.evictions)} evictions`}>{count(overview.inputs_waiting)}</Figure>
        {traffic && (
          <Figure name="Requests / min" note={`${ms(lastMean(traffic.total))} on average`}>
            <span class="figure start">
              {rate(perMinute(traffic.total.requests, traffic.interval_seconds))}
              <Sparkline values={traffic.total.requests.slice(0, -1)} label="Requests of all tasks in the last five minutes" />
            </span>
          </Figure>
        )}
      </dl>
      {busiest.length > 0 && (
        <p class="busiest">
          <span class="soft">Busiest: </span>
          {busiest.map(({ task, perMinute: now }, i) => (
            <span key={task}>
              {i > 0 && ", "}
              {task === "base" ? task : <a href={to("tasks", task)}>{task}</a>}{" "}
              <span class="soft">{rate(now)}</span>
            </span>
          ))}
        </p>
      )}
    </section>
  );
}

interface FigureProps {
  name: string;
  note?: string | undefined;
  children: preact.ComponentChildren;
}

function Figure({ name, note, children }: FigureProps) {
  return (
    <div>
      <dt>{name}</dt>
      <dd class="value">{children}</dd>
      {note && <dd class="soft small">{note}</dd>}
    </div>
  );
}
