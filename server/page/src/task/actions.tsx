// What is done to a task as a whole.
import { useSignal } from "@preact/signals";
import { confirm } from "../parts/confirm";
import { counted } from "../parts/format";
import { go, to } from "../router";
import { body, server } from "../server/client";
import type { Aliases, Task } from "../server/types";
import { announce, announceError } from "../state/announce";

interface Props {
  task: Task;
  refresh: () => void;
}

/** What `stable` points at, in words. */
export function pointsAt(target: Aliases[string] | undefined): string {
  if (target === undefined) return "nothing";
  if (typeof target === "number") return `version ${target}`;
  return target.map(({ version, weight }) => `version ${version} (${weight})`).join(", ");
}

export function TaskActions({ task, refresh }: Props) {
  const { name } = task;
  const at = { params: { path: { task: name } } };
  const running = useSignal<string | null>(null);

  // A button that is off loses the focus, so a running one only says that it is busy.
  const act = async <T,>(action: string, ask: () => Promise<{ data?: T }>, said: (now: T) => string) => {
    if (running.value) return;
    running.value = action;
    try {
      announce(said(await body(ask())));
      refresh();
    } catch (error) {
      announceError(error);
    } finally {
      running.value = null;
    }
  };
  const remove = () => confirm({
    title: `Delete ${name}?`,
    text: `The task, ${counted(task.versions.length, "version")} and its settings go. Requests under way finish. This cannot be undone.`,
    action: "Delete the task",
    done: `${name} is deleted.`,
    run: async () => {
      await server.DELETE("/v1/tasks/{task}", at);
      go("tasks");
    },
  });
  const busy = (action: string) => (running.value === action ? true : undefined);

  return (
    <div class="buttons" role="group" aria-label="Actions">
      {task.residency === "slot"
        ? <button type="button" key="residency" aria-disabled={busy("unload")} onClick={() => act("unload", () => server.POST("/v1/tasks/{task}/unload", at), (now) => `${name}: unloaded, now ${now.residency === "slot" ? "still in a slot, which is in use" : "out of its slot"}.`)}>Unload</button>
        : <button type="button" key="residency" aria-disabled={busy("load")} onClick={() => act("load", () => server.POST("/v1/tasks/{task}/load", at), () => `${name} is in a slot.`)}>Load</button>}
      <button type="button" aria-pressed={task.pinned === true} aria-disabled={busy(task.pinned ? "unpin" : "pin")}
        onClick={() => task.pinned
          ? act("unpin", () => server.POST("/v1/tasks/{task}/unpin", at), () => `${name} may be evicted again.`)
          : act("pin", () => server.POST("/v1/tasks/{task}/pin", at), () => `${name} stays in a slot.`)}>
        {task.pinned ? "Pinned" : "Pin"}
      </button>
      <button type="button" aria-disabled={busy("rollback")} onClick={() => act("rollback", () => server.POST("/v1/tasks/{task}/rollback", { ...at, body: {} }), (now) => `${name}: stable points at ${pointsAt(now.aliases.stable)} again.`)}>Roll back</button>
      <a class="button" href={to("upload", name)}>Upload a version</a>
      <a class="button" href={to("playground", "ask", name)}>Try it</a>
      <button type="button" class="danger push" onClick={remove}>Delete the task</button>
    </div>
  );
}
