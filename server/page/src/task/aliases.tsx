// Aliases and roll-outs: which versions answer, and with which share of the requests.
import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { confirm } from "../parts/confirm";
import { percent } from "../parts/format";
import { server } from "../server/client";
import type { Rollout, Task } from "../server/types";
import { announce } from "../state/announce";
import { fractions, shares } from "./split";
import { SplitEditor } from "./split-editor";

interface Props {
  task: Task;
  refresh: () => void;
}

/** What is known of an alias's shadow and canary, a line each. */
function RolloutLines({ rollout }: { rollout: Rollout }) {
  const { shadow, canary, withdrawn } = rollout;
  const compared = shadow ? shadow.agreed + shadow.differed : 0;
  return (
    <>
      {shadow && (
        <p class="soft">
          Version {shadow.version} is asked {percent(shadow.fraction)} of the requests too: {shadow.answered} so far
          {compared > 0 && `, ${percent(shadow.agreed / compared)} of their answers the same`}.
        </p>
      )}
      {canary && (
        <p class="soft">
          Version {canary.version} is a canary: {canary.canary.requests} requests lately, {canary.canary.faults} failed by the server's fault.
        </p>
      )}
      {withdrawn && <p class="bad-text">Version {withdrawn.version} was withdrawn: {withdrawn.reason}.</p>}
    </>
  );
}

export function Aliases({ task, refresh }: Props) {
  const edited = useSignal<string | null>(null); // the alias whose editor is open; "" for a new one
  const buttons = useRef(new Map<string, HTMLButtonElement | null>());
  const newest = task.versions.at(-1)?.version;

  const close = (alias: string) => {
    edited.value = null;
    buttons.current.get(alias)?.focus(); // the editor is gone
  };
  const saved = (alias: string) => {
    announce(`${task.name}: ${alias} is set.`);
    refresh();
  };
  const remove = (alias: string) => confirm({
    title: `Delete the alias ${alias}?`,
    text: `Whoever asks ${task.name}@${alias} gets an error from then on. The versions stay.`,
    action: "Delete the alias",
    done: `The alias ${alias} is deleted.`,
    run: async () => {
      await server.DELETE("/v1/tasks/{task}/aliases/{alias}", { params: { path: { task: task.name, alias } } });
      refresh();
    },
  });

  return (
    <section class="panel" aria-labelledby="aliases">
      <h2 id="aliases">Aliases and roll-outs</h2>
      <ul class="aliases">
        {Object.entries(task.aliases).map(([alias, target]) => {
          const split = shares(target);
          return (
            <li key={alias}>
              <div class="alias">
                <span class="mono">{task.name}@{alias}</span>
                <span class="split">
                  {fractions(split).map((fraction, i) => (
                    <span key={split[i]?.version} class="badge">version {split[i]?.version}{split.length > 1 && `: ${percent(fraction)}`}</span>
                  ))}
                </span>
                <span class="buttons">
                  <button type="button" class="quiet" aria-expanded={edited.value === alias} ref={(button) => { buttons.current.set(alias, button); }}
                    onClick={() => { edited.value = edited.value === alias ? null : alias; }}>
                    Change<span class="unseen"> {alias}</span>
                  </button>
                  {alias !== "stable" && (
                    <button type="button" class="quiet danger" onClick={() => remove(alias)}>Delete<span class="unseen"> the alias {alias}</span></button>
                  )}
                </span>
              </div>
              {task.rollouts?.[alias] && <RolloutLines rollout={task.rollouts[alias]} />}
              {edited.value === alias && (
                <SplitEditor task={task} alias={alias} start={split} onSaved={saved} onClose={() => close(alias)} />
              )}
            </li>
          );
        })}
        <li>
          <button type="button" class="quiet" aria-expanded={edited.value === ""} ref={(button) => { buttons.current.set("", button); }}
            disabled={newest === undefined} onClick={() => { edited.value = edited.value === "" ? null : ""; }}>
            New alias
          </button>
          {edited.value === "" && newest !== undefined && (
            <SplitEditor task={task} alias={null} start={[{ version: newest, weight: 100 }]} onSaved={saved} onClose={() => close("")} />
          )}
        </li>
      </ul>
    </section>
  );
}
