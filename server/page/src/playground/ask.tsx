// Several tasks on one text, in one call.
import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { address, body, server } from "../server/client";
import type { Base } from "../server/types";
import { key } from "../state/key";
import { AsCurl } from "./curl";
import { kindOf, known, useFacts } from "./facts";
import { AskForm } from "./form";
import { viewOf } from "./kinds";
import { Parameters } from "./parameters";
import { TaskPicker } from "./picker";
import { bodyOf } from "./request";
import { Batches, Results, summary, type Answered } from "./results";
import { asked, baseKind, second, text, typed } from "./state";
import { useAsking } from "./use-asking";

const FIRST = 4; // tasks that are chosen before anybody has

export function Ask({ base }: { base: Base }) {
  const asking = useAsking();
  const answered = useSignal<Answered | null>(null);
  const tasks = asked.value ?? [];
  useFacts(tasks);
  useFirstTasks();

  const wanted = base.kinds.includes(baseKind.value) ? baseKind.value : "";
  const chosen = tasks.map((task) => ({
    task,
    kind: kindOf(task, wanted || (base.kind ?? "")),
    ...(task === "base" && wanted && { further: { kind: wanted } }),
  }));
  const kinds = [...new Set(chosen.flatMap(({ kind }) => kind ?? []))];
  const pairs = chosen.filter(({ kind }) => kind && viewOf(kind).second !== "none");
  const needed = [...new Set(kinds.map((kind) => viewOf(kind).second).flatMap((one) => (typeof one === "object" ? one.called : [])))];
  const sent = { text: text.value, second: pairs.length ? second.value : "" };
  const sending = bodyOf(chosen, sent, typed.value);

  const ask = () => asking.start(async (signal) => {
    const before = performance.now();
    const { results } = await body(server.POST("/v1/predict", { body: sending, signal }));
    const one: Answered = { results, tasks, sent, milliseconds: performance.now() - before };
    answered.value = one;
    return { shown: summary(one) };
  }, "Asking …");

  return (
    <div class="asking">
      <AskForm asking={asking} onAsk={ask} action="Ask" hindrance={tasks.length ? undefined : "Choose a task first."}>
        <TaskPicker label="Tasks" chosen={tasks} base={base} onChange={(names) => { asked.value = names; }} />
        {tasks.map((task) => {
          const missing = known.value[task]?.missing;
          return missing && <p key={task} class="bad-text small">{missing}</p>;
        })}
        {tasks.includes("base") && base.kinds.length > 1 && (
          <div class="field">
            <label for="base-kind">What base answers</label>
            <select id="base-kind" value={wanted} onChange={(event) => { baseKind.value = event.currentTarget.value; }}>
              <option value="">{base.kind}</option>
              {base.kinds.filter((kind) => kind !== base.kind).map((kind) => <option key={kind} value={kind}>{kind}</option>)}
            </select>
          </div>
        )}
        <div class="field">
          <label for="text">{needed.length ? "Text, or question" : "Text"}</label>
          <textarea id="text" rows={4} required value={text.value} onInput={(event) => { text.value = event.currentTarget.value; }} />
        </div>
        {pairs.length > 0 && (
          <div class="field">
            <label for="second">{needed.join("; ") || "Second text (may be empty)"}</label>
            <textarea id="second" rows={needed.length ? 5 : 2} required={needed.length > 0} value={second.value} aria-describedby="second-help"
              onInput={(event) => { second.value = event.currentTarget.value; }} />
            <p id="second-help" class="soft small">For {pairs.map(({ task }) => task).join(", ")}.</p>
          </div>
        )}
        {kinds.some((kind) => viewOf(kind).fields.length) && (
          <details>
            <summary>Parameters</summary>
            {kinds.map((kind) => {
              const { fields } = viewOf(kind);
              return fields.length > 0 && <Parameters key={kind} kind={kind} title={kind} fields={fields} />;
            })}
          </details>
        )}
        {tasks.length > 0 && <AsCurl address={address("/v1/predict")} body={sending} />}
      </AskForm>
      <section class="stack" aria-labelledby="answers">
        <h2 id="answers">Answers</h2>
        {answered.value ? (
          <>
            <Batches of={answered.value} />
            <Results of={answered.value} busy={asking.busy.value} />
          </>
        ) : (
          <p class="soft">Every task chosen answers here, all in one call.</p>
        )}
      </section>
    </div>
  );
}

/** Chooses a few tasks for somebody who has not chosen yet. */
function useFirstTasks(): void {
  useEffect(() => {
    if (asked.value !== null) return undefined;
    const stop = new AbortController();
    body(server.GET("/v1/tasks", { params: { query: { limit: FIRST } }, signal: stop.signal }))
      .then(({ data }) => {
        const simple = data.filter(({ kind }) => kind && typeof viewOf(kind).second === "string").map(({ name }) => name);
        asked.value ??= simple.length ? simple : ["base"];
      })
      .catch(() => {}); // it is but a convenience
    return () => stop.abort();
  }, [key.value]);
}
