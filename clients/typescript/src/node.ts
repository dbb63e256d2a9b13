// Files, which browsers have no paths of.

import { createWriteStream, openAsBlob } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Client } from "./client.js";
import type { CallOptions, UploadSource } from "./types.js";

const ARCHIVES = /\.(zip|tar\.gz|tgz|tar)$/i;

/**
 * What is uploaded of a path: an archive, or a folder's files but the hidden ones. They are read while they are sent.
 *
 * Rejects for a folder with folders in it, which only an archive can carry.
 */
export async function fromPath(path: string): Promise<UploadSource> {
  if (!(await stat(path)).isDirectory()) {
    if (!ARCHIVES.test(path)) throw new TypeError(`${path} is neither a folder nor an archive (zip, tar.gz)`);
    return new File([await openAsBlob(path)], basename(path));
  }
  const files: Record<string, Blob> = {};
  for (const name of (await readdir(path)).sort()) {
    if (name.startsWith(".")) continue;
    const file = join(path, name);
    if ((await stat(file)).isDirectory()) {
      throw new TypeError(`${file} is a folder: pack ${path} as a zip or tar.gz, and give that`);
    }
    files[name] = await openAsBlob(file);
  }
  return files;
}

/** Writes a version's files to `path`, as a tar.gz. */
export async function downloadTo(
  client: Client,
  task: string,
  number: number,
  path: string,
  options?: CallOptions,
): Promise<void> {
  const body = await client.download(task, number, options);
  await pipeline(Readable.fromWeb(body as Parameters<typeof Readable.fromWeb>[0]), createWriteStream(path));
}
