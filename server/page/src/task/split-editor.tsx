// Sliders that share an alias's requests out between versions. What is being set stays when the task is read again.
import { useSignal } from "@preact/signals";
import { useId } from "preact/hooks";
import { percent } from "../parts/format";
import { server } from "../server/client";
import type { Target, Task } from "../server/types";
import { bodyOf, fractions, kept, withShare } from "./split";

interface Props {
  task: Task;
  /** Null: a new one, whose name is asked for. */
  alias: string | null;
  /** In per cent. */
  start: Target[];
  onSaved: (alias: string) => void;
  onClose: () => void;
}

export function SplitEditor({ task, alias, start, onSaved, onClose }: Props) {
  const id = useId();
  const name = useSignal("");
  const split = useSignal(start);
  const problem = useSignal("");
  const sending = useSignal(false);
  const parts = fractions(split.value);
  const unused = task.versions.map(({ version }) => version).filter((version) => !split.value.some((target) => target.version === version));

  const save = async (event: Event) => {
    event.preventDefault();
    if (sending.value) return;
    const shared = bodyOf(split.value);
    if (!shared) {
      problem.value = "One version must get more than nothing.";
      return;
    }
    const target = alias ?? name.value.trim();
    sending.value = true;
    problem.value = "";
    try {
      const params = { path: { task: task.name, alias: target } };
      await server.PUT("/v1/tasks/{task}/aliases/{alias}", { params, body: { ...shared, ...kept(task.rollouts?.[target], split.value) } });
      onSaved(target);
      onClose();
    } catch (error) {
      problem.value = (error as Error).message;
    } finally {
      sending.value = false;
    }
  };
  const add = () => {
    const version = unused.at(-1);
    if (version === undefined) return;
    // A new version begins with nothing: who adds it moves its slider.
    split.value = [...split.value, { version, weight: 0 }];
  };
  const drop = (version: number) => {
    const kept = split.value.filter((target) => target.version !== version);
    split.value = kept.length === 1 ? kept.map((target) => ({ ...target, weight: 100 })) : kept;
  };
  const replace = (index: number, version: number) => {
    split.value = split.value.map((target, i) => (i === index ? { ...target, version } : target));
  };

  return (
    <form class="editor" aria-label={alias === null ? "New alias" : `Change ${alias}`} onSubmit={save}>
      {alias === null && (
        <div class="field">
          <label for={`${id}-name`}>Name of the alias</label>
          <input id={`${id}-name`} required maxLength={128} autocomplete="off" spellcheck={false} value={name.value}
            onInput={(event) => { name.value = event.currentTarget.value; }} />
        </div>
      )}
      {split.value.map((target, i) => (
        <div class="share" key={i} role="group" aria-label={`Version ${target.version}`}>
          <select aria-label="Version" value={target.version} onChange={(event) => replace(i, Number(event.currentTarget.value))}>
            {[target.version, ...unused].sort((a, b) => a - b).map((version) => <option key={version} value={version}>version {version}</option>)}
          </select>
          <input type="range" min={0} max={100} step={1} value={target.weight} disabled={split.value.length === 1}
            aria-label={`Share of version ${target.version}`} aria-valuetext={percent(parts[i] ?? 0)}
            onInput={(event) => { split.value = withShare(split.value, i, event.currentTarget.valueAsNumber); }} />
          <output>{percent(parts[i] ?? 0)}</output>
          {split.value.length > 1 && (
            <button type="button" class="quiet" aria-label={`Take version ${target.version} out`} onClick={() => drop(target.version)}>×</button>
          )}
        </div>
      ))}
      {problem.value && <p class="bad-text" role="alert">{problem.value}</p>}
      <div class="buttons">
        <button class="main" aria-disabled={sending.value || undefined}>Save</button>
        {unused.length > 0 && <button type="button" onClick={add}>Add a version</button>}
        <button type="button" onClick={onClose}>Cancel</button>
      </div>
    </form>
  );
}
