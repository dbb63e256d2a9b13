// All tasks, a page at a time, with what they do now.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { Problem } from "../parts/problem";
import { to } from "../router";
import { body, server } from "../server/client";
import type { TaskPage, Traffic } from "../server/types";
import { usePoll } from "../state/poll";
import { OverviewStrip } from "./overview";
import { TaskRow } from "./row";

const ROWS = 50;
const TYPING = 200; // ms without a key pressed, after which it is searched

interface Shown {
  tasks: TaskPage;
  traffic: Traffic | null; // where the server shows it
}

async function load(search: string, token: string | undefined, signal: AbortSignal): Promise<Shown> {
  const query = { limit: ROWS, ...(search && { search }), ...(token && { page_token: token }) };
  const tasks = await body(server.GET("/v1/tasks", { params: { query }, signal }));
  const task = tasks.data.map(({ name }) => name);
  const traffic = tasks.data.length
    ? await body(server.GET("/v1/traffic", { params: { query: { task } }, signal })).catch(() => null)
    : null;
  return { tasks, traffic };
}

export function Tasks() {
  const typed = useSignal("");
  const search = useSignal("");
  const tokens = useSignal<string[]>([]); // of the pages up to this one
  const token = tokens.value[tokens.value.length - 1];
  const shown = usePoll(`${search.value}\n${token ?? ""}`, (signal) => load(search.value, token, signal));

  const wanted = typed.value.trim();
  useEffect(() => {
    if (wanted === search.value) return undefined;
    const timer = setTimeout(() => {
      tokens.value = [];
      search.value = wanted;
    }, TYPING);
    return () => clearTimeout(timer);
  }, [wanted]);

  const page = shown.value.value?.tasks;
  const traffic = shown.value.value?.traffic;
  const byTask = new Map(traffic?.data.map((series) => [series.task, series]));
  const next = page?.next_page_token;

  return (
    <div class="stack">
      <OverviewStrip />
      <div class="toolbar">
        <div class="field search">
          <label for="search">Find a task</label>
          <input id="search" type="search" value={typed.value} maxLength={128} autocomplete="off" spellcheck={false}
            onInput={(event) => { typed.value = event.currentTarget.value; }} />
        </div>
        <a class="button" href={to("upload")}>Upload an adapter</a>
      </div>
      <Problem of={shown} />
      {page && (
        <div class="panel flush">
          <table class="tasks">
            <caption class="unseen">Tasks: where their adapters are, and the last five minutes</caption>
            <thead>
              <tr>
                <th scope="col">Task</th>
                <th scope="col" class="wide">Kind</th>
                <th scope="col" class="wide">Method</th>
                <th scope="col" class="wide num">Version</th>
                <th scope="col" class="wide num">Size</th>
                <th scope="col">Where</th>
                <th scope="col" class="num">Requests<span class="wide"> / min</span></th>
                <th scope="col" class="num">Latency</th>
              </tr>
            </thead>
            <tbody>
              {page.data.map((task) => (
                <TaskRow key={task.name} task={task} series={byTask.get(task.name)} interval={traffic?.interval_seconds ?? 5} />
              ))}
              {!page.data.length && (
                <tr><td colSpan={8} class="soft">{search.value ? `No task has “${search.value}” in its name.` : "There are no tasks yet."}</td></tr>
              )}
            </tbody>
          </table>
        </div>
      )}
      {page && (next || tokens.value.length > 0) && (
        <nav class="buttons" aria-label="Pages of tasks">
          <button type="button" disabled={!tokens.value.length} onClick={() => { tokens.value = tokens.value.slice(0, -1); }}>Previous</button>
          <span class="soft">Page {tokens.value.length + 1}</span>
          <button type="button" disabled={!next} onClick={() => { if (next) tokens.value = [...tokens.value, next]; }}>Next</button>
        </nav>
      )}
    </div>
  );
}
