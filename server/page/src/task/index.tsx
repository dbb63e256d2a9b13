// One task: where it is, what its aliases point at, its versions and what was found out about them.
import { useSignal } from "@preact/signals";
import { Problem } from "../parts/problem";
import { body, Refused, server } from "../server/client";
import { usePoll } from "../state/poll";
import { TaskActions } from "./actions";
import { Aliases } from "./aliases";
import { CardPanel } from "./card";
import { Facts } from "./facts";
import { Quarantine } from "./quarantine";
import { TrafficPanel } from "./traffic";
import { Versions } from "./versions";

export function TaskView({ name }: { name: string }) {
  const polled = usePoll(name, (signal) => body(server.GET("/v1/tasks/{task}", { params: { path: { task: name } }, signal })));
  const chosen = useSignal<number | null>(null); // the version whose card is shown
  const task = polled.value.value;
  const gone = polled.error.value instanceof Refused && polled.error.value.status === 404;
  const shown = task?.versions.find(({ version }) => version === (chosen.value ?? task.version)) ?? task?.versions.at(-1);

  return (
    <div class="stack">
      <Problem of={polled} />
      {task && !gone && (
        <>
          <Quarantine task={task} refresh={polled.refresh} />
          <TaskActions task={task} refresh={polled.refresh} />
          <Facts task={task} />
          <TrafficPanel name={name} />
          <Aliases task={task} refresh={polled.refresh} />
          <Versions task={task} shown={shown?.version ?? null} refresh={polled.refresh} onShow={(number) => { chosen.value = number; }} />
          {shown && <CardPanel key={`${shown.version} ${shown.sha256}`} task={name} version={shown.version} />}
        </>
      )}
    </div>
  );
}
