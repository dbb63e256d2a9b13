import { percent } from "../../parts/format";
import type { OutputOf } from "../../server/types";
import { Bar } from "../bar";
import { pair, type KindView } from "./kind";

type Output = OutputOf<"classify">;

const SHOWN = 5;

export const classify: KindView<"classify"> = {
  second: "optional",
  fields: [
    { name: "top_k", label: "Best labels (top_k)", of: "integer", min: 1, otherwise: "all" },
    { name: "multi_label", label: "Each label by itself (multi_label)", of: "flag" },
  ],
  inputs: pair,
  answer: ([output]) => output && <Scores {...output} />,
};

function Scores({ label, score, scores, labels }: Output) {
  const ranked = Object.entries(scores).sort(([, one], [, other]) => other - one);
  const rows = (some: [string, number][]) => some.map(([name, value]) => {
    const holds = labels ? labels.includes(name) : name === label;
    return (
      <tr key={name} class={holds ? "holds" : undefined}>
        <th scope="row">{name}{holds && <span class="unseen"> (the answer)</span>}</th>
        <td class="barred"><Bar share={value} /></td>
        <td class="num">{percent(value)}</td>
      </tr>
    );
  });
  return (
    <>
      <p class="verdict">
        {labels ? labels.join(", ") || "No label reaches 50 %" : label}
        {!labels && <span class="soft small"> {percent(score)}</span>}
      </p>
      <table class="scores">
        <caption class="unseen">Scores of the labels</caption>
        <tbody>{rows(ranked.slice(0, SHOWN))}</tbody>
      </table>
      {ranked.length > SHOWN && (
        <details>
          <summary>{ranked.length - SHOWN} more labels</summary>
          <table class="scores">
            <caption class="unseen">Scores of the other labels</caption>
            <tbody>{rows(ranked.slice(SHOWN))}</tbody>
          </table>
        </details>
      )}
    </>
  );
}
