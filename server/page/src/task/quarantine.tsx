// Which versions of a task are not asked, or share no batch, and why; and what ends that.
import { useSignal } from "@preact/signals";
import { liftable } from "../parts/quarantine";
import { body, server } from "../server/client";
import type { Task } from "../server/types";
import { announce, announceError } from "../state/announce";

interface Props {
  task: Task;
  refresh: () => void;
}

export function Quarantine({ task, refresh }: Props) {
  const running = useSignal(false);
  const versions = task.versions.flatMap((version) => {
    const { quarantined, damaged, alone } = version;
    const state = quarantined ? `${damaged ? "is damaged" : "is quarantined"}: ${quarantined}` : alone ? `runs alone: ${alone}` : "";
    return state ? [{ number: version.version, state, liftable: liftable(version) }] : [];
  });
  // Of an alias whose version is not there.
  const lost = task.quarantined && task.versions.every(({ quarantined }) => quarantined !== task.quarantined) ? task.quarantined : null;
  if (!versions.length && !lost) return null;

  const lift = async () => {
    if (running.value) return;
    running.value = true;
    try {
      const now = await body(server.POST("/v1/tasks/{task}/lift", { params: { path: { task: task.name } } }));
      announce(now.quarantined ? `${task.name} is still not asked: ${now.quarantined}` : `${task.name} is asked as ever.`);
      document.getElementById("title")?.focus(); // the button goes
      refresh();
    } catch (error) {
      announceError(error);
    } finally {
      running.value = false;
    }
  };

  return (
    <section class={task.versions.some(({ quarantined }) => quarantined) || lost ? "notice bad" : "notice warn"} aria-label="Quarantine">
      <div class="stack">
        {lost && <p>{lost}</p>}
        {versions.map(({ number, state }) => <p key={number}>Version {number} {state}</p>)}
      </div>
      {versions.some((version) => version.liftable) && (
        <button type="button" aria-disabled={running.value || undefined} onClick={() => void lift()}>
          {task.versions.some(({ quarantined, damaged }) => quarantined && !damaged) ? "Lift the quarantine" : "Have it share batches again"}
        </button>
      )}
    </section>
  );
}
