import { short } from "../../parts/format";
import { Bar } from "../bar";
import type { KindView, Sent } from "./kind";

export const rerank: KindView<"rerank"> = {
  second: { called: "Documents, one a line" },
  fields: [{ name: "raw_scores", label: "The head's own numbers (raw_scores)", of: "flag" }],
  inputs: (sent) => documents(sent).map((document) => ({ text: sent.text, text_pair: document })),
  answer: (outputs, sent) => <Ranking scores={outputs.map(({ score }) => score)} sent={sent} />,
};

function documents({ second }: Sent): string[] {
  const lines = second.split("\n").map((line) => line.trim()).filter(Boolean);
  return lines.length ? lines : [second];
}

function Ranking({ scores, sent }: { scores: number[]; sent: Sent }) {
  const ranked = documents(sent)
    .map((document, i) => ({ document, i, score: scores[i] ?? 0 }))
    .sort((one, other) => other.score - one.score);
  const probable = scores.every((score) => score >= 0 && score <= 1);
  return (
    <table class="scores">
      <caption class="unseen">Documents, the most relevant first</caption>
      <tbody>
        {ranked.map(({ document, i, score }) => (
          <tr key={i}>
            <th scope="row">{document}</th>
            <td class="barred">{probable && <Bar share={score} />}</td>
            <td class="num">{short(score)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
