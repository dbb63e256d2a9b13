// The last passes through the model: which tasks and methods shared each.
import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { counted, ms, timeOfDay } from "../parts/format";
import { Problem } from "../parts/problem";
import { to } from "../router";
import { body, server } from "../server/client";
import type { Batch } from "../server/types";
import { usePoll } from "../state/poll";
import { colour, Shares } from "./shares";

const SHOWN = 50;
const SECONDS = 2;
const NAMED = 6; // tasks of a batch that stand beside its bar

export function Batches() {
  const held = useSignal<Batch[] | null>(null);
  const colours = useRef(new Map<string, string>());
  const polled = usePoll("batches", async (signal) => (await body(server.GET("/v1/batches", { params: { query: { limit: SHOWN } }, signal }))).data, SECONDS);
  const batches = held.value ?? polled.value.value;
  const shared = batches?.filter(({ task_count }) => task_count > 1).length ?? 0;
  return (
    <div class="stack">
      <div class="toolbar">
        <p>
          {batches && batches.length > 0
            ? `${counted(shared, "of the last batch was", `of the last ${batches.length} batches were`)} shared by several tasks.`
            : "One batch is one pass through the backbone, for all tasks in it."}
        </p>
        <button type="button" aria-pressed={held.value !== null} onClick={() => { held.value = held.value ? null : (batches ?? []); }}>
          {held.value ? "Held" : "Hold"}
        </button>
      </div>
      <Problem of={polled} />
      {batches && (
        <div class="panel flush">
          <table class="batches">
            <caption class="unseen">The last batches, the newest first</caption>
            <thead>
              <tr>
                <th scope="col" class="num">Batch</th>
                <th scope="col" class="wide">Ended</th>
                <th scope="col">Tasks</th>
                <th scope="col" class="wide">Methods</th>
                <th scope="col" class="num"><span class="wide">Sequences</span><span class="narrow">Seqs</span></th>
                <th scope="col" class="wide num">Tokens</th>
                <th scope="col" class="num">Time</th>
              </tr>
            </thead>
            <tbody>
              {batches.map((batch) => <Row key={batch.id} batch={batch} colours={colours.current} />)}
              {!batches.length && <tr><td colSpan={7} class="soft">Nothing has run since the server started.</td></tr>}
            </tbody>
          </table>
        </div>
      )}
    </div>
  );
}

function Row({ batch, colours }: { batch: Batch; colours: Map<string, string> }) {
  const named = batch.tasks.slice(0, NAMED);
  const more = batch.task_count - named.length;
  return (
    <tr>
      <th scope="row" class="num">{batch.id}</th>
      <td class="wide nowrap">{timeOfDay(batch.ended)}</td>
      <td class="tasks">
        <Shares batch={batch} colours={colours} />
        <span class="names">
          {named.map(({ task, sequences }) => (
            <span key={task} class={`series ${colour(colours, task)}`}>
              {task === "base" ? task : <a href={to("tasks", task)}>{task}</a>} <span class="soft">{sequences}</span>
            </span>
          ))}
          {more > 0 && <span class="soft">and {counted(more, "more task")}</span>}
        </span>
        <span class="narrow soft">{batch.methods.join(", ")}</span>
      </td>
      <td class="wide methods">{batch.methods.join(", ")}</td>
      <td class="num">{batch.sequences}</td>
      <td class="wide num">{batch.tokens}</td>
      <td class="num">{ms(batch.compute_ms)}</td>
    </tr>
  );
}
