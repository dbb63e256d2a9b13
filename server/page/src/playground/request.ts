// One request that asks several tasks about one text.
import type { PredictItem, PredictMany } from "../server/types";
import { viewOf } from "./kinds";
import type { Sent } from "./kinds/kind";
import { parametersOf } from "./parameters";
import type { Typed } from "./state";

export interface Chosen {
  task: string;
  kind: string | undefined;
  /** Parameters that are not among the kind's fields. */
  further?: Record<string, unknown>;
}

/** The body of `POST /v1/predict`: the short form, where all tasks are asked the same. */
export function bodyOf(chosen: Chosen[], sent: Sent, typed: Typed): PredictMany {
  const items = chosen.map(({ task, kind, further }) => {
    const view = viewOf(kind);
    const parameters = { ...further, ...(kind && parametersOf(view.fields, typed[kind])) };
    const item: PredictItem = { task, inputs: view.inputs(sent) };
    if (Object.keys(parameters).length) item.parameters = parameters;
    return item;
  });
  const [first, ...others] = items.map(({ task: _, ...shared }) => shared);
  const same = others.every((one) => JSON.stringify(one) === JSON.stringify(first));
  return same ? { tasks: items.map(({ task }) => task), ...first } : { requests: items };
}
