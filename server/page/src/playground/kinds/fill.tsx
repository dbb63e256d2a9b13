import { percent } from "../../parts/format";
import { Bar } from "../bar";
import type { KindView } from "./kind";

export const fill: KindView<"fill"> = {
  second: "none",
  fields: [{ name: "top_k", label: "Tokens for each mask (top_k)", of: "integer", min: 1, max: 100, otherwise: "5" }],
  inputs: ({ text }) => text,
  answer: ([output]) => output && (
    <>
      <p class="verdict">{output.text}</p>
      {output.masks.map(({ start, fills }, i) => (
        <table key={start} class="scores">
          <caption class={output.masks.length > 1 ? "small soft" : "unseen"}>Mask {i + 1}</caption>
          <tbody>
            {fills.map(({ text, token, score }) => (
              <tr key={token}>
                <th scope="row">{text}</th>
                <td class="barred"><Bar share={score} /></td>
                <td class="num">{percent(score)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      ))}
    </>
  ),
};
