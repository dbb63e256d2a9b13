import { Chart } from "../parts/chart";
import { percent, short } from "../parts/format";
import type { Curves } from "../server/types";

/** How a training went: the loss by step, and by epoch beside the score on the validation data. */
export function TrainingCurves({ curves }: { curves: Curves }) {
  const { metric, scores, best_epoch: best } = curves;
  const known = scores.filter((score): score is number => score !== null);
  const shares = known.length > 0 && known.every((score) => score >= 0 && score <= 1);
  return (
    <section aria-labelledby="curves">
      <h3 id="curves">Training</h3>
      <div class="columns">
        {curves.steps.length > 0 && (
          <Chart title="Loss" unit="step" x={curves.steps} lines={[{ name: "loss", values: curves.losses }]} />
        )}
        {curves.epochs.length > 0 && (
          <Chart title={`Validation: ${metric}`} unit="epoch" x={curves.epochs} format={shares ? percent : short}
            lines={[{ name: metric, values: scores }]} mark={{ x: best, name: `best: epoch ${best}` }} />
        )}
      </div>
    </section>
  );
}
