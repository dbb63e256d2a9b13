// What the tasks have answered, side by side.
import { useId } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { counted, ms } from "../parts/format";
import { to } from "../router";
import type { Prediction, Result } from "../server/types";
import { viewOf } from "./kinds";
import type { Sent } from "./kinds/kind";

export interface Answered {
  results: Result[];
  /** As they were asked, `task@3` and all. */
  tasks: string[];
  sent: Sent;
  /** Of the whole call. */
  milliseconds: number;
}

export function failed(result: Result): result is Exclude<Result, Prediction> {
  return "error" in result;
}

/** The outcome in a sentence. */
export function summary({ results, milliseconds }: Answered): string {
  const bad = results.filter(failed).length;
  const good = results.length - bad;
  return `${counted(good, "task")} answered in ${ms(milliseconds)}${bad ? `; ${bad} failed` : ""}.`;
}

export function Results({ of, busy }: { of: Answered; busy: boolean }) {
  return (
    <div class="cards" aria-busy={busy}>
      {of.results.map((result, i) => {
        const asked = of.tasks[i] ?? result.task;
        return (
          <Card key={asked} asked={asked} result={result}>
            {failed(result)
              ? <p class="notice bad">{result.error.message}</p>
              : viewOf(result.kind).answer(result.outputs, of.sent)}
          </Card>
        );
      })}
    </div>
  );
}

/** One task's answer, under its name and above where it comes from. */
export function Card({ asked, result, children }: { asked: string; result: Result; children: ComponentChildren }) {
  const id = useId();
  const good = failed(result) ? null : result;
  return (
    <article class="panel answer" aria-labelledby={id}>
      <header>
        <h3 id={id}>{asked === "base" ? asked : <a href={to("tasks", asked.split("@")[0] ?? asked)}>{asked}</a>}</h3>
        {good && <span class="badge">{good.kind}</span>}
        {failed(result) && <span class="badge bad">failed</span>}
      </header>
      <div class="stack">{children}</div>
      {good?.warnings?.map(({ message }) => <p key={message} class="notice warn small">{message}</p>)}
      {good && <Origin of={good} />}
    </article>
  );
}

function Origin({ of: { task, version, timing, batch, usage } }: { of: Prediction }) {
  return (
    <footer class="soft small">
      <p>
        {task !== "base" && `Version ${version} · `}
        {ms(timing.queue_ms + timing.load_ms + timing.compute_ms)} (waiting {ms(timing.queue_ms)}
        {timing.load_ms > 0 && `, loading ${ms(timing.load_ms)}`}, computing {ms(timing.compute_ms)}) · {counted(usage.input_tokens, "token")} · batch {batch.id}
      </p>
    </footer>
  );
}

/** Which tasks shared which pass through the model. */
export function Batches({ of }: { of: Answered }) {
  const batches = new Map<number, { batch: Prediction["batch"]; tasks: string[]; distinct: Set<string> }>();
  of.results.forEach((result, i) => {
    if (failed(result)) return;
    const found = batches.get(result.batch.id) ?? { batch: result.batch, tasks: [], distinct: new Set<string>() };
    found.tasks.push(of.tasks[i] ?? result.task);
    found.distinct.add(result.task);
    batches.set(result.batch.id, found);
  });
  return (
    <ul class="shared small">
      {[...batches].map(([id, { batch, tasks, distinct }]) => {
        const others = batch.tasks - distinct.size;
        const names = others > 0 ? [...tasks, counted(others, "task") + " of others"] : tasks;
        return (
          <li key={id}>
            <a href={to("batches")}>Batch {id}</a>: {listed(names)}{names.length > 1 && " in one pass"} ({counted(batch.sequences, "sequence")};{" "}
            {batch.methods.join(", ")})
          </li>
        );
      })}
    </ul>
  );
}

function listed(names: string[]): string {
  return new Intl.ListFormat("en").format(names);
}
