// Requests to the server that the page came from, by the types that are made from its OpenAPI.
import createClient from "openapi-fetch";
import { key, keyRefused } from "../state/key";
import type { paths } from "./schema";

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

/** The routes. A request that is refused, or not answered, raises Refused; one that is given up, its signal's reason. */
export const server = createClient<paths, "application/json">({ baseUrl: ".", fetch: send });

/** What is in an answer. */
export async function body<T>(answer: Promise<{ data?: T }>): Promise<T> {
  return (await answer).data as T; // what is no answer was raised
}

/** The address of a route, for a link. */
export function address(route: keyof paths, names: Record<string, string | number> = {}): string {
  return route.slice(1).replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(names[name] ?? ""));
}

export function authorization(): Record<string, string> {
  return key.value ? { Authorization: `Bearer ${key.value}` } : {};
}

async function send(request: Request): Promise<Response> {
  for (const [name, value] of Object.entries(authorization())) request.headers.set(name, value);
  let answer: Response;
  try {
    answer = await fetch(request);
  } catch (error) {
    if (request.signal.aborted) throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) throw refusal(answer.status, await answer.text());
  return answer;
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
