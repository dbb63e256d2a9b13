import { useId } from "preact/hooks";
import { counted, ms } from "../parts/format";
import type { Turn, Written } from "./turn";

/** A prompt, and what the tasks write after it, side by side. */
export function TurnView({ turn, chat }: { turn: Turn; chat: boolean }) {
  return (
    <li class="turn">
      {chat && <p class="said"><span class="unseen">You: </span>{turn.prompt}</p>}
      <div class="cards">
        {turn.written.map((one) => <WrittenView key={one.task} of={one} prompt={chat ? "" : turn.prompt} />)}
      </div>
    </li>
  );
}

function WrittenView({ of, prompt }: { of: Written; prompt: string }) {
  const id = useId();
  const { task, text, state, reason } = of;
  const busy = state === "waiting" || state === "writing";
  return (
    <article class="panel answer" aria-labelledby={id} aria-busy={busy}>
      <header>
        <h3 id={id}>{task}</h3>
        {busy && <span class="badge">{state}</span>}
        {state === "stopped" && <span class="badge warn">stopped</span>}
        {state === "failed" && <span class="badge bad">failed</span>}
      </header>
      {state === "failed" ? <p class="notice bad">{reason}</p> : (
        <p class="written">
          {prompt && <span class="soft">{prompt}</span>}
          {text}
          {busy && <span class="caret" aria-hidden="true" />}
          {!busy && !text && <span class="soft">No text</span>}
        </p>
      )}
      {!busy && state !== "failed" && <footer class="soft small"><p>{facts(of)}</p></footer>}
    </article>
  );
}

function facts({ state, reason, tokens, total, first, version, batch, task }: Written): string {
  return [
    version && task !== "base" && `version ${version}`,
    tokens > 0 && counted(tokens, "token"),
    state === "ended" && reason,
    total !== undefined && ms(total),
    first !== undefined && `first text after ${ms(first)}`,
    batch !== undefined && `batch ${batch}`,
  ].filter(Boolean).join(" · ");
}
