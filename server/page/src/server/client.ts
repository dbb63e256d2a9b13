// Requests to the server that the page came from.
import { key, keyRefused } from "../state/key";

/** An answer that says no, or none at all (`status` 0). The message is the server's own. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }

  /** Whether another key would help. */
  get wantsKey(): boolean {
    return this.status === 401 || (this.status === 403 && this.param === null);
  }
}

/** A path below /v1/, each part escaped. */
export function path(...parts: (string | number)[]): string {
  return "v1/" + parts.map((part) => encodeURIComponent(part)).join("/");
}

export function authorization(): Record<string, string> {
  return key.value ? { Authorization: `Bearer ${key.value}` } : {};
}

export interface Ask {
  method?: string;
  /** Sent as JSON. */
  json?: unknown;
  signal?: AbortSignal;
}

/** Asks, and gives the answer as it is. Raises Refused. */
export async function open(address: string, { method, json, signal }: Ask = {}): Promise<Response> {
  const headers: Record<string, string> = authorization();
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const options: RequestInit = { method: method ?? (json === undefined ? "GET" : "POST"), headers };
  if (json !== undefined) options.body = JSON.stringify(json);
  if (signal) options.signal = signal;
  let answer: Response;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer;
}

/** Asks, and reads the JSON of the answer. Raises Refused. */
export async function call<T>(address: string, ask: Ask = {}): Promise<T> {
  const answer = await open(address, ask);
  return (answer.status === 204 ? null : await answer.json()) as T;
}

/** What the server says in an answer of `status` with this text. */
export function refusal(status: number, text: string): Refused {
  let message = `The server answered ${status}.`;
  let param: string | null = null;
  try {
    const error = JSON.parse(text).error;
    if (typeof error?.message === "string") {
      message = error.message;
      param = error.param ?? null;
    }
  } catch {
    // a proxy's page, perhaps
  }
  const refused = new Refused(status, message, param);
  if (refused.wantsKey) keyRefused.value = refused;
  return refused;
}
