import type { ComponentChildren } from "preact";
import { percent } from "../../parts/format";
import type { OutputOf } from "../../server/types";
import { reader } from "../characters";
import type { KindView, Sent } from "./kind";

type Output = OutputOf<"tokens">;

const COLOURS = 6;

export const tokens: KindView<"tokens"> = {
  second: "none",
  fields: [
    {
      name: "aggregation",
      label: "From tokens to entities (aggregation)",
      of: "choice",
      options: ["none", "simple", "first", "average", "max", "word"],
    },
  ],
  inputs: ({ text }) => text, // of two texts, positions would not say which one they are in
  answer: ([output], sent) => output && <Marked {...output} sent={sent} />,
};

function Marked({ tokens, entities, sent }: Output & { sent: Sent }) {
  const counts = new Map<string, number>();
  for (const { entity_group: label } of entities) counts.set(label, (counts.get(label) ?? 0) + 1);
  const labels = [...counts.keys()].sort();
  // Colours repeat where there are many labels: the label itself always stands beside the words.
  const colour = (label: string) => `l${(labels.indexOf(label) % COLOURS) + 1}`;

  const slice = reader(sent.text);
  const parts: ComponentChildren[] = [];
  let at = 0;
  for (const { entity_group: label, start, end } of entities) {
    parts.push(slice(at, start));
    parts.push(
      <mark key={start} class={colour(label)}>
        {slice(start, end)}
        <span class="label"><span class="unseen"> (</span>{label}<span class="unseen">)</span></span>
      </mark>,
    );
    at = end;
  }
  parts.push(slice(at));

  return (
    <>
      <p class="marked">{parts}</p>
      {labels.length ? (
        <ul class="labels" aria-label="Labels">
          {labels.map((label) => (
            <li key={label}><span class={`dot ${colour(label)}`} aria-hidden="true" />{label}<span class="soft"> × {counts.get(label)}</span></li>
          ))}
        </ul>
      ) : (
        <p class="soft">No entities.</p>
      )}
      <details>
        <summary>{tokens.length} tokens</summary>
        <div class="tall">
          <table class="small">
            <caption class="unseen">Every token, its label and the score</caption>
            <thead><tr><th scope="col">Token</th><th scope="col">Label</th><th scope="col" class="num">Score</th></tr></thead>
            <tbody>
              {tokens.map(({ text, start, label, score }) => (
                <tr key={start}><td class="mono">{text}</td><td>{label}</td><td class="num">{percent(score)}</td></tr>
              ))}
            </tbody>
          </table>
        </div>
      </details>
    </>
  );
}
