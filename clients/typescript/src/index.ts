export { Client } from "./client.js";
export * from "./errors.js";
export { GenerateStream } from "./events.js";
export type { components, paths } from "./schema.js";
export type * from "./types.js";
