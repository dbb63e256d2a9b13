// The form of each way to ask: what it has in common.
import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";
import type { Asking, Outcome } from "./use-asking";

interface Props {
  asking: Asking;
  onAsk: () => void;
  /** The word on the button. */
  action: string;
  /** Why nothing can be asked now. */
  hindrance?: string | undefined;
  children: ComponentChildren;
}

const MAC = /Mac|iPhone|iPad/.test(navigator.userAgent);

/** Fields and the button that asks, and stops while it is asked. Ctrl+Enter asks from anywhere in it. */
export function AskForm({ asking, onAsk, action, hindrance, children }: Props) {
  const form = useRef<HTMLFormElement>(null);
  const busy = asking.busy.value;
  const press = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    if (!busy) form.current?.requestSubmit();
  };
  const submit = (event: Event) => {
    event.preventDefault();
    if (busy) asking.stop();
    else if (!hindrance) onAsk();
  };
  return (
    <form ref={form} class="panel form ask" onSubmit={submit} onKeyDown={press} onInvalidCapture={unfold}>
      {children}
      <div class="buttons">
        <button class="main" aria-disabled={hindrance && !busy ? true : undefined} formNoValidate={busy}>{busy ? "Stop" : action}</button>
        {hindrance && !busy ? <span class="soft small">{hindrance}</span> : <span class="soft small keys">{MAC ? "⌘ Enter" : "Ctrl + Enter"}</span>}
      </div>
      <OutcomeView of={asking.outcome.value} />
    </form>
  );
}

/** A field that is wrong must be seen: whatever is folded around it opens. */
function unfold(event: Event): void {
  const folded = (event.target as Element).closest<HTMLDetailsElement>("details:not([open])");
  if (folded) folded.open = true;
}

/** What came of it: read out when it changes. */
function OutcomeView({ of: { shown, read, bad } }: { of: Outcome }) {
  return (
    <p class={bad ? "outcome bad-text" : "outcome soft"} role="status">
      {shown}
      {read && <span class="unseen"> {read}</span>}
    </p>
  );
}
