// Chooses tasks by a part of their names: the server searches, however many there are.
import { useSignal } from "@preact/signals";
import { useEffect, useId, useRef } from "preact/hooks";
import { body, server } from "../server/client";
import type { TaskSummary } from "../server/types";
import { announceError } from "../state/announce";
import { key } from "../state/key";

interface Props {
  label: string;
  chosen: string[];
  onChange: (chosen: string[]) => void;
  /** The bare backbone: it is not among the tasks of the list. */
  base: Option;
  /** Why a task cannot be chosen; undefined where it can. */
  refusal?: (task: Option) => string | undefined;
}

/** What the list shows of a task. */
export type Option = Pick<TaskSummary, "name" | "kind" | "method">;

interface Found {
  options: Option[];
  /** Whether there are more than are shown. */
  more: boolean;
}

const LISTED = 50;
const TYPING = 150; // ms without a key pressed, after which it is searched

async function search(typed: string, base: Option, signal: AbortSignal): Promise<Found> {
  const [name = "", reference] = typed.split("@");
  const query = { limit: LISTED, ...(name && { search: name }) };
  const page = await body(server.GET("/v1/tasks", { params: { query }, signal }));
  const tasks: Option[] = page.data;
  if (base.name.includes(name.toLowerCase())) tasks.unshift(base);
  // A version or an alias is asked under the whole of `task@3`.
  const exact = reference && tasks.find((task) => task.name === name);
  if (exact) tasks.unshift({ ...exact, name: typed });
  return { options: tasks, more: page.next_page_token !== null };
}

export function TaskPicker({ label, chosen, onChange, base, refusal }: Props) {
  const id = useId();
  const field = useRef<HTMLInputElement>(null);
  const typed = useSignal("");
  const open = useSignal(false);
  const active = useSignal(0);
  const found = useSignal<Found | null>(null);
  const wanted = typed.value.trim();

  useEffect(() => {
    if (!open.value) return undefined;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      try {
        found.value = await search(wanted, base, stop.signal);
        active.value = 0;
      } catch (error) {
        if (!stop.signal.aborted) announceError(error);
      }
    }, found.value ? TYPING : 0);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [wanted, open.value, key.value, base.kind]);

  const options = found.value?.options ?? [];
  const optionId = (i: number) => `${id}-option-${i}`;
  useEffect(() => {
    if (open.value) document.getElementById(optionId(active.value))?.scrollIntoView({ block: "nearest" });
  }, [active.value, open.value]);

  const toggle = (option: Option | undefined) => {
    if (!option || (refusal?.(option) && !chosen.includes(option.name))) return;
    onChange(chosen.includes(option.name) ? chosen.filter((name) => name !== option.name) : [...chosen, option.name]);
  };
  const close = () => {
    open.value = false;
    typed.value = "";
  };
  const remove = (names: string[]) => {
    onChange(chosen.filter((name) => !names.includes(name)));
    field.current?.focus();
  };
  const move = (to: number) => {
    if (open.value) active.value = Math.min(Math.max(to, 0), Math.max(options.length - 1, 0));
    open.value = true;
  };
  const press = (event: KeyboardEvent) => {
    const last = chosen[chosen.length - 1];
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowDown") move(active.value + 1);
    else if (event.key === "ArrowUp") move(active.value - 1);
    else if (event.key === "Enter") { if (open.value) toggle(options[active.value]); }
    else if (event.key === "Escape" && open.value) close();
    else if (event.key === "Backspace" && !typed.value && last) return remove([last]);
    else return;
    event.preventDefault();
  };
  const leave = (event: FocusEvent) => {
    if (!(event.currentTarget as Element).contains(event.relatedTarget as Node | null)) close();
  };

  return (
    <div class="field picker" onFocusOut={leave}>
      <label for={id}>{label}</label>
      {chosen.length > 0 && (
        <ul class="chips" aria-label={`${label}: chosen`}>
          {chosen.map((name) => (
            <li key={name} class="chip">
              <span>{name}</span>
              <button type="button" class="quiet" aria-label={`Remove ${name}`} onClick={() => remove([name])}>×</button>
            </li>
          ))}
          {chosen.length > 1 && <li key=" "><button type="button" class="quiet" onClick={() => remove(chosen)}>Remove all</button></li>}
        </ul>
      )}
      <div class="combo">
        <input id={id} ref={field} type="text" role="combobox" autocomplete="off" spellcheck={false} placeholder="Find a task to add"
          aria-autocomplete="list" aria-expanded={open.value} aria-controls={`${id}-list`} aria-describedby={`${id}-count`}
          aria-activedescendant={open.value && options.length ? optionId(active.value) : undefined}
          value={typed.value} onKeyDown={press} onClick={() => { open.value = true; }}
          onInput={(event) => { typed.value = event.currentTarget.value; open.value = true; }} />
        <ul id={`${id}-list`} class="options" role="listbox" aria-multiselectable="true" aria-label="Tasks" hidden={!open.value || !options.length}>
          {options.map((option, i) => {
            const reason = refusal?.(option);
            return (
              <li key={option.name} id={optionId(i)} role="option" class={i === active.value ? "active" : undefined}
                aria-selected={chosen.includes(option.name)} aria-disabled={reason ? true : undefined}
                onMouseDown={(event) => event.preventDefault()} onClick={() => { active.value = i; toggle(option); }}>
                <span class="tick-box" aria-hidden="true">{chosen.includes(option.name) ? "✓" : ""}</span>
                <span class="name">{option.name}</span>
                <span class="soft small">{reason ?? [option.kind, option.method].filter(Boolean).join(" · ")}</span>
              </li>
            );
          })}
        </ul>
        <p id={`${id}-count`} class="soft small" hidden={!open.value || !found.value}>
          {options.length === 0
            ? "No task has this in its name."
            : found.value?.more ? `The first ${LISTED}; type a part of the name to find others.` : "Arrows and Enter choose, Escape closes."}
        </p>
      </div>
    </div>
  );
}
