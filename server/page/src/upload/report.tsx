import { bytes } from "../parts/format";
import { to } from "../router";
import { pointsAt } from "../task/actions";
import type { Answer } from "./send";

/** What the server found in an upload. */
export function Report({ answer: { body, created } }: { answer: Answer }) {
  const rows: [string, preact.ComponentChildren][] = [
    ["Method", body.method],
    ["Kind", body.kind],
    ["Rank", body.rank ?? "none"],
    ["Matched tensors", body.matched_tensors],
    ["Weights", bytes(body.bytes)],
    ["sha256", <code>{body.sha256}</code>],
    ...Object.entries(body.aliases).map(([alias, target]): [string, string] => [alias, pointsAt(target)]),
  ];
  return (
    <section class="panel stack" aria-labelledby="report">
      <h2 id="report">{body.task}, version {body.version}</h2>
      <p class={created ? "notice good" : "notice"}>
        {created ? "Checked, and in the store." : "The same files were there before: nothing was changed."}
      </p>
      <dl class="facts">
        {rows.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
      </dl>
      {body.warnings && body.warnings.length > 0 && (
        <div class="stack">
          <h3>Warnings</h3>
          {body.warnings.map((warning) => <p key={warning} class="notice warn prewrap">{warning}</p>)}
        </div>
      )}
      <div class="buttons">
        <a class="button" href={to("tasks", body.task)}>Open the task</a>
        <a class="button" href={to("playground", "ask", body.task)}>Try it</a>
      </div>
    </section>
  );
}
