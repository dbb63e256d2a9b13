// The server's types under short names, and those of this client's own methods.

import type { ManyhatsError } from "./errors.js";
import type { components } from "./schema.js";

type Schemas = components["schemas"];

export type Prediction = Schemas["Prediction"];
export type Kind = Prediction["kind"];
/** The answer of a task of one kind. */
export type PredictionOf<K extends Kind> = Extract<Prediction, { kind: K }>;
export type Parameters = NonNullable<Schemas["PredictBody"]["parameters"]>;
export type GenerateParameters = Omit<Schemas["GenerateParameters"], "stream">;
export type GenerateEvent = Schemas["PredictionEvent"];
export type Inputs = Schemas["PredictBody"]["inputs"];
export type Question = Schemas["PredictItem"];

export type ChatMessage = Schemas["ChatBody"]["messages"][number];
export type ChatParameters = Omit<Schemas["ChatBody"], "model" | "messages" | "stream" | "stream_options">;
export type ChatCompletion = Schemas["ChatCompletion"];
export type ChatChunk = Schemas["ChatCompletionChunk"];
export type EmbedParameters = Omit<Schemas["EmbeddingBody"], "model" | "input" | "encoding_format">;

export type Task = Schemas["TaskSummary"];
export type AuditEntry = Schemas["AuditBody"];
export type Health = Schemas["Alive"];
export type TaskDetails = Schemas["TaskBody"];
export type TaskSettings = Schemas["SettingsBody"];
export type Version = Schemas["TaskVersion"];
export type AliasState = Schemas["AliasState"];
/** What an alias has besides its versions; what is left out is no more. */
export type Rollout = Pick<Schemas["AliasBody"], "affinity" | "shadow" | "canary">;
/** The version that an upload gave; `new`: whether it was made, else the same files were there before. */
export type Upload = Schemas["UploadedBody"] & { new: boolean };
export type Ready = Schemas["ReadyBody"];

/** One question of many that failed, in the place of its answer. */
export interface Failure {
  kind: "failure";
  question: Question;
  error: ManyhatsError;
}

export type Result = Prediction | Failure;

export interface ClientOptions {
  /** Left out: the environment variable MANYHATS_URL, the page's own server, or http://127.0.0.1:8000. */
  baseUrl?: string | undefined;
  /** Left out: the environment variable MANYHATS_API_KEY. */
  apiKey?: string | undefined;
  /** Milliseconds for an answer, and for each next piece of a stream. 0: no limit. */
  timeout?: number | undefined;
  /** How often a refusal (429, 503) or a connection that was never made is tried again. */
  maxRetries?: number | undefined;
  /** Where the server asks for a longer pause than these milliseconds, its refusal is thrown at once. */
  maxRetryWait?: number | undefined;
  /** Sent with every request. */
  headers?: Record<string, string> | undefined;
  /** Sends a request, in place of the platform's own. */
  fetch?: ((request: Request) => Promise<Response>) | undefined;
}

/** Of one call; what is left out is as the client has it. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
  timeout?: number | undefined;
  maxRetries?: number | undefined;
  headers?: Record<string, string> | undefined;
}

export interface ManyOptions extends CallOptions {
  /** The most calls under way. */
  concurrency?: number | undefined;
  /** The most inputs in one call. */
  batchSize?: number | undefined;
}

export interface EmbedOptions extends CallOptions {
  /** Is told how many texts are done. */
  onProgress?: ((done: number) => void) | undefined;
}

export interface ListOptions extends CallOptions {
  /** Only those with this in their names. */
  search?: string | undefined;
}

export interface AuditOptions extends CallOptions {
  /** Only the changes of this task. */
  task?: string | undefined;
}

export interface Progress {
  /** Bytes of the files. */
  sent: number;
  total: number;
}

/** A file's content. */
export type Content = Blob | Uint8Array<ArrayBuffer> | string;

/** An archive (zip, tar.gz), or files by the name that each is to have, with `/` between folders. */
export type UploadSource = Blob | Uint8Array<ArrayBuffer> | Record<string, Content>;

/** Labelled examples: a file of JSON lines, or the rows. */
export type Examples = Content | Iterable<Record<string, unknown>>;

export interface UploadOptions extends CallOptions {
  /** The alias that points at the new version; `stable` where it is left out. */
  alias?: string | undefined;
  /** Whether it does; true where it is left out. */
  activate?: boolean | undefined;
  /** Set together with the version. */
  settings?: TaskSettings | undefined;
  /** Labelled examples: the version is evaluated first, and activated only where it is no worse than the stable one. */
  examples?: Examples | undefined;
  /** How much worse it may be; 0 where it is left out. */
  maxDrop?: number | undefined;
  /** The metric that is compared, to be sure that it is this one. */
  metric?: string | undefined;
  onProgress?: ((progress: Progress) => void) | undefined;
}
