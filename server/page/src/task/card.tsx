// What is known of one version: warnings, the curves of its training, and its card.
import { Markdown } from "../parts/markdown";
import { Problem } from "../parts/problem";
import { body, server } from "../server/client";
import { usePoll } from "../state/poll";
import { TrainingCurves } from "./curves";

const RARELY = 600; // seconds: a version does not change

export function CardPanel({ task, version }: { task: string; version: number }) {
  const params = { path: { task, number: version } };
  const polled = usePoll(`${task} ${version}`, (signal) => body(server.GET("/v1/tasks/{task}/versions/{number}", { params, signal })), RARELY);
  const found = polled.value.value;
  return (
    <section class="panel" aria-labelledby="card">
      <h2 id="card">Version {version}</h2>
      <Problem of={polled} />
      {found && (
        <div class="stack">
          {found.warnings.map((warning) => <p key={warning} class="notice warn">{warning}</p>)}
          {found.curves && <TrainingCurves curves={found.curves} />}
          {found.card ? <Markdown text={found.card} /> : <p class="soft">This version came without a card (README.md).</p>}
        </div>
      )}
    </section>
  );
}
