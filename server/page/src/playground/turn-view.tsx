import { useEffect, useId, useRef } from "preact/hooks";
import { counted, ms } from "../parts/format";
import { writes, type Turn, type Written } from "./turn";

/** A prompt, and what the tasks write after it, side by side. `onStop` stops one of them. */
export function TurnView({ turn, onStop }: { turn: Turn; onStop: (task: string) => void }) {
  const place = useRef<HTMLLIElement>(null);
  const busy = turn.written.some(writes);
  useEffect(() => {
    if (busy) place.current?.scrollIntoView({ block: "nearest" });
  }, [busy]);
  return (
    <li class="turn" ref={place}>
      <p class="said"><span class="unseen">You: </span>{turn.prompt}</p>
      <div class="cards">
        {turn.written.map((one) => <WrittenView key={one.task} of={one} onStop={() => onStop(one.task)} />)}
      </div>
    </li>
  );
}

function WrittenView({ of, onStop }: { of: Written; onStop: () => void }) {
  const id = useId();
  const { task, text, state, reason } = of;
  const busy = writes(of);
  const place = useRef<HTMLElement>(null);
  const stop = () => {
    place.current?.focus(); // the button goes
    onStop();
  };
  return (
    <article class="panel answer" ref={place} tabIndex={-1} aria-labelledby={id} aria-busy={busy}>
      <header>
        <h3 id={id}>{task}</h3>
        {busy && <button type="button" class="quiet" onClick={stop}>Stop<span class="unseen"> {task}</span></button>}
        {state === "stopped" && <span class="badge warn">stopped</span>}
        {state === "failed" && <span class="badge bad">failed</span>}
      </header>
      {(text || state !== "failed") && (
        <p class="written">
          {text}
          {busy && <span class="caret" aria-hidden="true" />}
          {!busy && !text && <span class="soft">No text</span>}
        </p>
      )}
      {state === "failed" && <p class="notice bad">{reason}</p>}
      {!busy && state !== "failed" && <footer class="soft small"><p>{facts(of)}</p></footer>}
    </article>
  );
}

function facts({ state, reason, tokens, total, first, version, batch, task }: Written): string {
  return [
    version !== undefined && task !== "base" && `version ${version}`,
    tokens > 0 && counted(tokens, "token"),
    state === "ended" && reason,
    total !== undefined && ms(total),
    first !== undefined && `first text after ${ms(first)}`,
    batch !== undefined && `batch ${batch}`,
  ].filter(Boolean).join(" · ");
}
