// What the server answers, as far as the page reads it; docs/openapi.json has all of it.

export type Residency = "disk" | "memory" | "slot";

export interface TaskSummary {
  name: string;
  kind: string | null;
  method: string | null;
  version: number | null;
  residency: Residency;
  bytes: number;
  quarantined?: string;
}

export interface Page<T> {
  data: T[];
  next_page_token: string | null;
}

export interface Version {
  version: number;
  sha256: string;
  method: string;
  kind: string;
  rank: number | null;
  matched_tensors: number;
  bytes: number;
  base: string | null;
  created: number;
  warnings: string[];
  card: string | null;
  quarantined?: string;
  evaluation?: { activated: boolean; reason: string };
  /** Of a version that is asked for by itself. */
  curves?: Curves | null;
}

export interface Curves {
  metric: string;
  more_is_better: boolean;
  steps: number[];
  losses: number[];
  epochs: number[];
  epoch_losses: number[];
  scores: (number | null)[];
  best_epoch: number;
}

export interface Target {
  version: number;
  weight: number;
}

/** An alias points at one version, or at several by weight. */
export type Aliases = Record<string, number | Target[]>;

/** What an alias has besides its versions, and what was counted of it. */
export interface Rollout {
  affinity: string;
  shadow: { version: number; fraction: number; tolerance: number; answered: number; agreed: number; differed: number } | null;
  canary: {
    version: number;
    max_error_rate: number | null;
    max_latency_ratio: number | null;
    max_p95_ms: number | null;
    min_requests: number;
    window_seconds: number;
    canary: { requests: number; faults: number };
  } | null;
  withdrawn: { version: number; reason: string; at: number } | null;
}

export interface Task extends TaskSummary {
  versions: Version[];
  aliases: Aliases;
  rollouts?: Record<string, Rollout> | null;
  labels: string[] | null;
  template: string | null;
  max_tokens: number;
  overflow: string;
  chat_template?: string | null;
  system_prompt?: string | null;
  defaults?: Record<string, unknown> | null;
  priority?: number | null;
  pinned?: boolean | null;
  warnings?: string[] | null;
}

export interface Uploaded {
  task: string;
  version: number;
  sha256: string;
  method: string;
  kind: string;
  rank: number | null;
  matched_tensors: number;
  bytes: number;
  aliases: Aliases;
  warnings?: string[];
}

export interface Series {
  requests: number[];
  failed: number[];
  mean_ms: (number | null)[];
  max_ms: (number | null)[];
}

export interface Traffic {
  interval_seconds: number;
  end: number;
  total: Series;
  data: (Series & { task: string })[];
}

interface Tier {
  adapters: number;
  bytes: number;
  bytes_limit: number;
}

export interface Overview {
  backbone: string;
  device: string;
  version: string;
  uptime_seconds: number;
  tasks: number;
  slots: Tier;
  memory: Tier;
  inputs_waiting: number;
  loads: number;
  evictions: number;
  quarantined_versions: number;
}

export interface Batch {
  id: number;
  ended: number;
  sequences: number;
  tokens: number;
  compute_ms: number;
  methods: string[];
  task_count: number;
  tasks: { task: string; sequences: number }[];
}
