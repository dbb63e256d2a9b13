// What the routes that ask answer, as far as the playground reads it.
import type { Task } from "../server/types";

export interface BatchOf {
  id: number;
  sequences: number;
  tasks: number;
  methods: string[];
}

export interface Prediction {
  id: string;
  task: string;
  version: number;
  kind: string;
  outputs: unknown[];
  usage: { input_tokens: number; output_tokens: number };
  timing: { queue_ms: number; load_ms: number; compute_ms: number };
  batch: BatchOf;
  warnings?: { input: number; message: string }[];
}

export interface Failure {
  task: string;
  error: { message: string };
}

export type Result = Prediction | Failure;

/** The bare backbone. */
export interface Base extends Task {
  backbone: string;
  kinds: string[];
  chats: boolean;
}
