import { counted } from "../../parts/format";
import { Bar } from "../bar";
import type { Field } from "../parameters";
import { cosine, length } from "../vectors";
import type { KindView } from "./kind";

/** One vector; or, without pooling, one for every token. */
type Embedding = number[] | number[][];

const SHOWN = 8;
export const POOLINGS = ["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"];

const pooling: Field<"pooling"> = { name: "pooling", label: "Pooling", of: "choice", options: [...POOLINGS, "none"] };

export const embed: KindView<"embed"> = {
  second: "optional", // to compare with
  fields: [pooling, { name: "normalize", label: "Length one (normalize)", of: "choice", options: [true, false] }],
  inputs: ({ text, second }) => (second ? [text, second] : text),
  answer: (outputs) => {
    const [first, other] = outputs.map(({ embedding }) => embedding);
    return (
      <>
        {first && other && flat(first) && flat(other) && <Similarity of={cosine(first, other)} />}
        {outputs.map(({ embedding }, i) => <Vector key={i} of={embedding} />)}
      </>
    );
  },
};

function flat(embedding: Embedding): embedding is number[] {
  return typeof embedding[0] === "number";
}

/** The cosine of two texts. */
export function Similarity({ of }: { of: number | null }) {
  if (of === null) return <p>One of the vectors is zero: there is no angle.</p>;
  return (
    <div class="similarity">
      <p class="verdict">{of.toFixed(3)}<span class="soft small"> cosine</span></p>
      <Bar share={of} />
    </div>
  );
}

function Vector({ of }: { of: Embedding }) {
  const vector = flat(of) ? of : (of[0] ?? []);
  const size = flat(of)
    ? `${counted(of.length, "number")}, length ${length(of).toPrecision(3)}`
    : `${counted(of.length, "token")} of ${counted(vector.length, "number")} each; the first token's`;
  return (
    <div>
      <p class="soft small">{size}</p>
      <p class="mono numbers">{vector.slice(0, SHOWN).map((value) => value.toFixed(3)).join("  ")}{vector.length > SHOWN && "  …"}</p>
    </div>
  );
}
