// Signals of this client's own that follow a caller's.

export interface Linked {
  signal: AbortSignal;
  abort(reason?: unknown): void;
  /** Follows the caller's no more. */
  release(): void;
}

/** AbortSignal.any holds its sources weakly in some releases of Node, and may miss what they say. */
export function linkedTo(caller: AbortSignal | undefined): Linked {
  const own = new AbortController();
  const follow = () => own.abort(caller?.reason);
  if (caller?.aborted) follow();
  caller?.addEventListener("abort", follow, { once: true });
  return {
    signal: own.signal,
    abort: (reason) => own.abort(reason),
    release: () => caller?.removeEventListener("abort", follow),
  };
}
