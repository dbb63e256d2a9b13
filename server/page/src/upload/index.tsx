// An adapter's way in: choose or drop its files, see them go, and read what the server found in them.
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { counted, percent } from "../parts/format";
import { announce } from "../state/announce";
import { DropZone } from "./drop-zone";
import { Report } from "./report";
import { send, type Answer, type Form } from "./send";

const NAME = "[A-Za-z0-9][A-Za-z0-9._\\-]{0,127}";

type State =
  | { step: "choosing" }
  | { step: "sending"; share: number }
  | { step: "done"; answer: Answer }
  | { step: "failed"; message: string };

/** `task`: whose new version it is to be, where the link said so. */
export function Upload({ task = "" }: { task?: string }) {
  const form = useSignal<Form>({ task, files: [], alias: "stable", activate: true, settings: "" });
  const state = useSignal<State>({ step: "choosing" });
  const stop = useRef<AbortController | null>(null);
  const outcome = useRef<HTMLDivElement>(null);
  useEffect(() => () => stop.current?.abort(), []);

  const { files } = form.value;
  const now = state.value;
  const sending = now.step === "sending";
  const set = (changes: Partial<Form>) => { form.value = { ...form.value, ...changes }; };

  const submit = async (event: Event) => {
    event.preventDefault();
    if (sending) return;
    if (!files.length) {
      state.value = { step: "failed", message: "Choose the adapter's files first." };
      return;
    }
    stop.current = new AbortController();
    state.value = { step: "sending", share: 0 };
    try {
      const answer = await send(form.value, (share) => { state.value = { step: "sending", share }; }, stop.current.signal);
      state.value = { step: "done", answer };
      announce(`${answer.body.task}: version ${answer.body.version} ${answer.created ? "is in the store" : "has these files already"}.`);
      outcome.current?.focus();
    } catch (error) {
      state.value = { step: "failed", message: (error as Error).message };
    }
  };

  return (
    <div class="columns">
      <form class="panel form" aria-label="Upload an adapter" onSubmit={submit}>
        <div class="field">
          <label for="upload-task">Task</label>
          <input id="upload-task" required pattern={NAME} title="letters, digits, dots, dashes and underscores" autocomplete="off" spellcheck={false}
            aria-describedby="upload-task-help" value={form.value.task} onInput={(event) => set({ task: event.currentTarget.value })} />
          <p id="upload-task-help" class="soft small">A new name makes a new task; one that is there gets another version.</p>
        </div>
        <DropZone files={files} onFiles={(chosen) => { set({ files: chosen }); state.value = { step: "choosing" }; }}
          onProblem={(message) => { state.value = { step: "failed", message }; }} />
        <div class="pair">
          <div class="field">
            <label for="upload-alias">Alias</label>
            <input id="upload-alias" required maxLength={128} autocomplete="off" spellcheck={false} value={form.value.alias}
              onInput={(event) => set({ alias: event.currentTarget.value })} />
          </div>
          <label class="check">
            <input type="checkbox" checked={form.value.activate} onChange={(event) => set({ activate: event.currentTarget.checked })} />
            Point it at the new version
          </label>
        </div>
        <details>
          <summary>Settings of the task</summary>
          <div class="field">
            <label for="upload-settings">JSON, as for <code>PUT /v1/tasks/…</code></label>
            <textarea id="upload-settings" class="mono" rows={4} spellcheck={false} placeholder={'{"labels": ["ham", "spam"]}'}
              value={form.value.settings} onInput={(event) => set({ settings: event.currentTarget.value })} />
          </div>
        </details>
        <div class="buttons">
          <button class="main" aria-disabled={sending || undefined}>Upload{files.length > 0 && ` ${counted(files.length, "file")}`}</button>
          {sending && <button type="button" onClick={() => stop.current?.abort()}>Stop</button>}
        </div>
        {sending && (
          <div class="field">
            <label for="upload-progress">{now.share < 1 ? `Sending: ${percent(now.share)}` : "Sent. The server checks the files …"}</label>
            {now.share < 1 ? <progress id="upload-progress" value={now.share} /> : <progress id="upload-progress" />}
          </div>
        )}
        {now.step === "failed" && <p class="notice bad prewrap" role="alert">{now.message}</p>}
      </form>
      <div ref={outcome} tabIndex={-1} class="outcome">
        {now.step === "done" ? <Report answer={now.answer} /> : <Hint />}
      </div>
    </div>
  );
}

function Hint() {
  return (
    <section class="panel stack" aria-labelledby="hint">
      <h2 id="hint">What can be sent</h2>
      <p>
        The folder that PEFT, AdapterHub's <code>adapters</code>, sentence-transformers or <code>manyhats train</code> wrote: its files, the folder
        itself, or one zip or tar.gz of it. Weights are safetensors; <code>manyhats convert</code> makes them from pickles on your machine.
      </p>
      <p>Everything is checked against the backbone before anything is changed. What does not fit is refused with the reason.</p>
    </section>
  );
}
