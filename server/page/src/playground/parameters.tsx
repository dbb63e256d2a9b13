// The parameters of a request, as fields; what is left empty is not sent, and the task's own holds.
import { useId } from "preact/hooks";
import { type, typed } from "./state";

interface Labelled<Name extends string> {
  name: Name;
  label: string;
  /** What holds where the field is empty. */
  otherwise?: string;
}

export type Field<Name extends string = string> = Labelled<Name> &
  (
    | { of: "integer"; min: number; max?: number }
    | { of: "number"; min: number; max: number }
    | { of: "choice"; options: (string | boolean)[] }
    /** Sent where it is set. */
    | { of: "flag" }
    /** Several texts, one a line. */
    | { of: "lines" }
  );

/** The parameters of `fields` that have been typed, as the server takes them. */
export function parametersOf(fields: Field[], values: Record<string, string> = {}): Record<string, unknown> {
  const given: Record<string, unknown> = {};
  for (const field of fields) {
    const value = values[field.name] ?? "";
    if (value !== "") given[field.name] = read(field, value);
  }
  return given;
}

function read(field: Field, value: string): unknown {
  if (field.of === "integer" || field.of === "number") return Number(value);
  if (field.of === "flag") return true;
  if (field.of === "choice") return field.options.find((option) => String(option) === value);
  return value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
}

/** The fields of one kind. */
export function Parameters({ kind, title, fields }: { kind: string; title: string; fields: Field[] }) {
  return (
    <fieldset class="parameters">
      <legend>{title}</legend>
      {fields.map((field) => <Control key={field.name} kind={kind} field={field} />)}
    </fieldset>
  );
}

function Control({ kind, field }: { kind: string; field: Field }) {
  const id = useId();
  const value = typed.value[kind]?.[field.name] ?? "";
  const keep = (event: { currentTarget: { value: string } }) => type(kind, field.name, event.currentTarget.value);
  if (field.of === "flag") {
    return (
      <label class="check">
        <input type="checkbox" checked={value !== ""} onChange={(event) => type(kind, field.name, event.currentTarget.checked ? "true" : "")} />
        {field.label}
      </label>
    );
  }
  return (
    <div class={field.of === "lines" ? "field whole" : "field"}>
      <label for={id}>{field.label}</label>
      {field.of === "choice" ? (
        <select id={id} value={value} onChange={keep}>
          <option value="">{field.otherwise ?? "as the task has it"}</option>
          {field.options.map((option) => <option key={String(option)} value={String(option)}>{words(option)}</option>)}
        </select>
      ) : field.of === "lines" ? (
        <textarea id={id} rows={2} value={value} placeholder={field.otherwise ?? ""} onInput={keep} />
      ) : (
        <input id={id} type="number" value={value} min={field.min} max={field.max} step={field.of === "integer" ? 1 : "any"}
          placeholder={field.otherwise ?? ""} onInput={keep} />
      )}
    </div>
  );
}

function words(option: string | boolean): string {
  return typeof option === "string" ? option : option ? "yes" : "no";
}
