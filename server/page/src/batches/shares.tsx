import type { Batch } from "../server/types";

const COLOURS = 6;

/** A bar of the tasks' sequences; the names beside it say the same in words. */
export function Shares({ batch }: { batch: Batch }) {
  let from = 0;
  return (
    <svg class="shares" aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none">
      {batch.tasks.map(({ task, sequences }, i) => {
        const width = (100 * sequences) / batch.sequences;
        const x = from;
        from += width;
        return <rect key={task} class={i < COLOURS ? `s${i + 1}` : "others"} x={x} y="0" width={Math.max(width - 0.6, 0.2)} height="6" />;
      })}
    </svg>
  );
}
