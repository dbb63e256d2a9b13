// How near two texts are: the cosine of their embeddings, by each of the chosen tasks.
import { useSignal } from "@preact/signals";
import { address, body, server } from "../server/client";
import type { Base } from "../server/types";
import { AsCurl } from "./curl";
import { AskForm } from "./form";
import { POOLINGS, Similarity as Cosine } from "./kinds/embed";
import { TaskPicker, type Option } from "./picker";
import { bodyOf } from "./request";
import { Batches, Card, failed, summary, type Answered } from "./results";
import { compared, pooling, texts } from "./state";
import { useAsking } from "./use-asking";
import { cosine } from "./vectors";

const NAMES = ["First text", "Second text"];

function notEmbedding({ name, kind }: Option): string | undefined {
  return name === "base" || kind === "embed" ? undefined : `${kind ?? "no version"}: gives no embeddings`;
}

export function Similarity({ base }: { base: Base }) {
  const asking = useAsking();
  const answered = useSignal<Answered | null>(null);
  const tasks = compared.value;
  const [text, second] = texts.value;
  const sent = { text, second };
  const chosen = tasks.map((task) => ({
    task,
    kind: "embed",
    ...(task === "base" && base.kind !== "embed" && { further: { kind: "embed" } }),
  }));
  const sending = bodyOf(chosen, sent, { embed: { pooling: pooling.value } });

  const ask = () => asking.start(async (signal) => {
    const before = performance.now();
    const { results } = await body(server.POST("/v1/predict", { body: sending, signal }));
    const one: Answered = { results, tasks, sent, milliseconds: performance.now() - before };
    answered.value = one;
    const values = results.map((result, i) => !failed(result) && `${tasks[i]}: ${similarity(result.outputs)?.toFixed(3) ?? "none"}`);
    return { shown: summary(one), read: values.filter(Boolean).join(", ") };
  }, "Asking …");

  return (
    <div class="asking">
      <AskForm asking={asking} onAsk={ask} action="Compare" hindrance={tasks.length ? undefined : "Choose a task first."}>
        <TaskPicker label="Tasks that embed" chosen={tasks} base={{ ...base, kind: "embed" }} refusal={notEmbedding}
          onChange={(names) => { compared.value = names; }} />
        {NAMES.map((name, i) => (
          <div key={name} class="field">
            <label for={`text-${i}`}>{name}</label>
            <textarea id={`text-${i}`} rows={3} required value={texts.value[i]}
              onInput={(event) => { texts.value = texts.value.with(i, event.currentTarget.value) as [string, string]; }} />
          </div>
        ))}
        <div class="field">
          <label for="pooling">Pooling</label>
          <select id="pooling" value={pooling.value} onChange={(event) => { pooling.value = event.currentTarget.value; }}>
            <option value="">as the task has it</option>
            {POOLINGS.map((mode) => <option key={mode} value={mode}>{mode}</option>)}
          </select>
        </div>
        {tasks.length > 0 && <AsCurl address={address("/v1/predict")} body={sending} />}
      </AskForm>
      <section class="stack" aria-labelledby="answers">
        <h2 id="answers">Similarity</h2>
        {answered.value ? (
          <>
            <Batches of={answered.value} />
            <div class="cards" aria-busy={asking.busy.value}>
              {answered.value.results.map((result, i) => (
                <Card key={tasks[i]} asked={answered.value?.tasks[i] ?? result.task} result={result}>
                  {failed(result) ? <p class="notice bad">{result.error.message}</p> : <Cosine of={similarity(result.outputs)} />}
                </Card>
              ))}
            </div>
          </>
        ) : (
          <p class="soft">1 where the two texts point the same way, 0 where they have nothing in common.</p>
        )}
      </section>
    </div>
  );
}

function similarity(outputs: unknown[]): number | null {
  const [one, other] = (outputs as { embedding: number[] }[]).map(({ embedding }) => embedding);
  return one && other ? cosine(one, other) : null;
}
