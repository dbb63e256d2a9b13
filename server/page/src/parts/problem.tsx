import type { Polled } from "../state/poll";
import { Refused } from "../server/client";

/** What a view shows in place of an answer: that it is on its way, or why it does not come. */
export function Problem<T>({ of }: { of: Polled<T> }) {
  const error = of.error.value;
  if (error instanceof Refused && error.wantsKey) return null; // the frame asks for the key
  if (error) {
    return (
      <div class="notice bad" role="alert">
        <p>{error.message}</p>
        <button type="button" onClick={of.refresh}>Try again</button>
      </div>
    );
  }
  return of.value.value === undefined ? <p class="soft" role="status">Loading …</p> : null;
}
