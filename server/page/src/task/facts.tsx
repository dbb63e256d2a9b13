import type { ComponentChildren } from "preact";
import { bytes, count } from "../parts/format";
import { ResidencyBadge } from "../parts/residency";
import type { Task } from "../server/types";

/** What is known of a task, and of the version that `stable` means. */
export function Facts({ task }: { task: Task }) {
  const defaults = Object.entries(task.defaults ?? {});
  return (
    <section class="panel" aria-labelledby="facts">
      <h2 id="facts">At a glance</h2>
      <dl class="facts">
        <Fact name="Kind">{task.kind ?? "–"}</Fact>
        <Fact name="Method">{task.method ?? "–"}</Fact>
        <Fact name="Version">{task.version ?? "–"}</Fact>
        <Fact name="Where"><ResidencyBadge of={task.residency} />{task.pinned && <> <span class="badge">pinned</span></>}</Fact>
        <Fact name="Weights">{bytes(task.bytes)}</Fact>
        <Fact name="Most tokens">{count(task.max_tokens)}, then {task.overflow === "truncate" ? "cut" : "an error"}</Fact>
        {task.labels && <Fact name="Labels">{task.labels.slice(0, 24).join(", ")}{task.labels.length > 24 && ` and ${task.labels.length - 24} more`}</Fact>}
        {task.template && <Fact name="Template"><code>{task.template}</code></Fact>}
        {task.system_prompt && <Fact name="System prompt">{task.system_prompt}</Fact>}
        {typeof task.priority === "number" && <Fact name="Priority">{task.priority}</Fact>}
        {defaults.length > 0 && <Fact name="Defaults"><code>{defaults.map(([name, value]) => `${name} ${JSON.stringify(value)}`).join(", ")}</code></Fact>}
      </dl>
      {task.warnings?.map((warning) => <p key={warning} class="notice warn">{warning}</p>)}
    </section>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
