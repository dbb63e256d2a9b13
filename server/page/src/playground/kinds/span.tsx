import { percent } from "../../parts/format";
import type { OutputOf } from "../../server/types";
import { Bar } from "../bar";
import { reader } from "../characters";
import { pair, type KindView, type Sent } from "./kind";

type Output = OutputOf<"span">;

export const span: KindView<"span"> = {
  second: { called: "Context" },
  fields: [
    { name: "top_k", label: "Answers (top_k)", of: "integer", min: 1, max: 100, otherwise: "1" },
    { name: "max_answer_tokens", label: "Longest answer, tokens", of: "integer", min: 1, max: 1000, otherwise: "30" },
  ],
  inputs: pair,
  answer: ([output], sent) => output && <Found {...output} sent={sent} />,
};

function Found({ answer, start, end, score, answers, sent }: Output & { sent: Sent }) {
  const slice = reader(sent.second);
  return (
    <>
      <p class="verdict">{answer || "No answer"}<span class="soft small"> {percent(score)}</span></p>
      {answer && (
        <blockquote class="context">
          {slice(0, start)}
          <mark class="l1">{answer}<span class="unseen"> (the answer)</span></mark>
          {slice(end)}
        </blockquote>
      )}
      {answers && answers.length > 1 && (
        <table class="scores">
          <caption class="unseen">The likeliest answers</caption>
          <tbody>
            {answers.map((one) => (
              <tr key={`${one.start} ${one.end}`}>
                <th scope="row">{one.answer}</th>
                <td class="barred"><Bar share={one.score} /></td>
                <td class="num">{percent(one.score)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </>
  );
}
