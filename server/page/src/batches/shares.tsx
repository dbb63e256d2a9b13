import type { Batch } from "../server/types";

const COLOURS = 6;

/** A task's colour, the same in every batch. The first tasks that are seen have one of their own, the rest share one. */
export function colour(colours: Map<string, string>, task: string): string {
  let found = colours.get(task);
  if (found === undefined) {
    if (colours.size >= COLOURS) return "others";
    found = `s${colours.size + 1}`;
    colours.set(task, found);
  }
  return found;
}

/** A bar of the tasks' sequences; the names beside it say the same in words. */
export function Shares({ batch, colours }: { batch: Batch; colours: Map<string, string> }) {
  let from = 0;
  return (
    <svg class="shares" aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none">
      {batch.tasks.map(({ task, sequences }) => {
        const width = (100 * sequences) / batch.sequences;
        const x = from;
        from += width;
        return <rect key={task} class={colour(colours, task)} x={x} y="0" width={Math.max(width - 0.6, 0.2)} height="6" />;
      })}
    </svg>
  );
}
