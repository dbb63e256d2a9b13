// A prompt and what the tasks write after it.

export type State = "waiting" | "writing" | "ended" | "stopped" | "failed";

export interface Written {
  task: string;
  text: string;
  state: State;
  /** Why it ended, or failed. */
  reason?: string;
  tokens: number;
  /** From the question to the end, and to the first text; milliseconds. */
  total?: number;
  first?: number;
  version?: number;
  batch?: number;
}

export interface Turn {
  id: number;
  prompt: string;
  written: Written[];
}

export type Message = { role: "system" | "user" | "assistant"; content: string };

/** A conversation as one task has seen it: without the turns that it did not answer. */
export function messagesFor(task: string, turns: Turn[], system: string, prompt: string): Message[] {
  const messages: Message[] = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    const answer = turn.written.find((one) => one.task === task);
    if (!answer?.text) continue;
    messages.push({ role: "user", content: turn.prompt }, { role: "assistant", content: answer.text });
  }
  return [...messages, { role: "user", content: prompt }];
}

export function writes({ state }: Written): boolean {
  return state === "waiting" || state === "writing";
}

/** The turn, without anybody who still writes. */
export function brokenOff(turn: Turn): Turn {
  return { ...turn, written: turn.written.map((one) => (writes(one) ? { ...one, state: "stopped" } : one)) };
}
