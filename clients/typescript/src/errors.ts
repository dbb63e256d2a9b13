// What goes wrong, as classes.

/** The base of all. */
export class ManyhatsError extends Error {
  override get name(): string {
    return this.constructor.name;
  }
}

/** No connection, or one that broke. `sent`: whether the server may have got the request. */
export class ConnectionFailed extends ManyhatsError {
  readonly sent: boolean;

  constructor(message: string, sent: boolean, options?: ErrorOptions) {
    super(message, options);
    this.sent = sent;
  }
}

/** No answer, or no next piece of it, within the time. */
export class Timeout extends ManyhatsError {}

/** The answer is not a Manyhats server's: a wrong address, or a proxy's own page. */
export class InvalidAnswer extends ManyhatsError {}

/** What an error's body says. */
export interface ErrorDetails {
  message: string;
  type: string;
  param: string | null;
  code: number;
}

/** The server answered with an error. */
export class APIError extends ManyhatsError {
  readonly status: number;
  readonly type: string;
  /** The field or file at fault, where there is one. */
  readonly param: string | null;
  /** Of the request, as the server's log has it. */
  readonly requestId: string | null;
  /** Seconds after which the server wants to be asked again. */
  readonly retryAfter: number | null;

  constructor(details: ErrorDetails, headers: Headers = new Headers()) {
    super(details.message);
    this.status = details.code;
    this.type = details.type;
    this.param = details.param;
    this.requestId = headers.get("x-request-id");
    const seconds = Number.parseFloat(headers.get("retry-after") ?? "");
    this.retryAfter = Number.isFinite(seconds) ? Math.max(seconds, 0) : null;
  }
}

/** 400 */
export class BadRequest extends APIError {}
/** 401 */
export class AuthenticationError extends APIError {}
/** 403 */
export class PermissionDenied extends APIError {}
/** 404 */
export class NotFound extends APIError {}
/** 409 */
export class Conflict extends APIError {}
/** 413 */
export class TooLarge extends APIError {}
/** 415 */
export class UnsupportedFormat extends APIError {}
/** 422 */
export class UnprocessableAdapter extends APIError {}
/** 429 */
export class Overloaded extends APIError {}
/** 503 */
export class ServerNotReady extends APIError {}
/** 504 */
export class DeadlineExceeded extends APIError {}
/** Any other 5xx. */
export class ServerError extends APIError {}

const BY_STATUS = new Map<number, typeof APIError>([
  [400, BadRequest],
  [401, AuthenticationError],
  [403, PermissionDenied],
  [404, NotFound],
  [409, Conflict],
  [413, TooLarge],
  [415, UnsupportedFormat],
  [422, UnprocessableAdapter],
  [429, Overloaded],
  [503, ServerNotReady],
  [504, DeadlineExceeded],
]);

/** The error of a body's `error`, as an exception. */
export function errorFrom(details: ErrorDetails, headers?: Headers): APIError {
  const kind = BY_STATUS.get(details.code) ?? (details.code >= 500 ? ServerError : APIError);
  return new kind(details, headers);
}

/** The error that a response with an error's status stands for. */
export async function errorOf(response: Response): Promise<ManyhatsError> {
  const text = await response.text();
  const details = detailsIn(text);
  if (details !== undefined) return errorFrom({ ...details, code: response.status }, response.headers);
  const refused = response.status === 429 || response.status === 503;
  const message = `${response.status} ${response.statusText}: ${text.slice(0, 200)}`;
  // What stands in front of the server may be busy or wait for it, too.
  if (refused) return errorFrom({ message, type: "", param: null, code: response.status }, response.headers);
  return new InvalidAnswer(`not an error of a Manyhats server: ${message}`);
}

function detailsIn(text: string): ErrorDetails | undefined {
  try {
    const { error } = JSON.parse(text);
    return typeof error.message === "string" && typeof error.type === "string" ? error : undefined;
  } catch {
    return undefined;
  }
}
