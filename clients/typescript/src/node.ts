// Files, which browsers have no paths of.

import { createWriteStream, openAsBlob } from "node:fs";
import { lstat, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import type { Client } from "./client.js";
import type { CallOptions, UploadSource } from "./types.js";

const ARCHIVES = /\.(zip|tar\.gz|tgz|tar)$/i;

/**
 * What is uploaded of a path: an archive, or a folder's files but the hidden ones. They are read while they are sent;
 * those of a folder with folders in it are packed first.
 *
 * Rejects for a link to a folder, which is not followed.
 */
export async function fromPath(path: string): Promise<UploadSource> {
  if (!(await stat(path)).isDirectory()) {
    if (!ARCHIVES.test(path)) throw new TypeError(`${path} is neither a folder nor an archive (zip, tar.gz)`);
    return new File([await openAsBlob(path)], basename(path));
  }
  const files: Record<string, Blob> = {};
  await gather(path, "", files);
  if (!Object.keys(files).length) throw new TypeError(`${path} has no files`);
  return files;
}

async function gather(folder: string, prefix: string, files: Record<string, Blob>): Promise<void> {
  for (const name of (await readdir(folder)).sort()) {
    if (name.startsWith(".")) continue;
    const path = join(folder, name);
    if (!(await stat(path)).isDirectory()) files[prefix + name] = await openAsBlob(path);
    else if (!(await lstat(path)).isSymbolicLink()) await gather(path, `${prefix}${name}/`, files);
    else throw new TypeError(`${path} is a link to a folder, and such links are not followed`);
  }
}

export interface DownloadOptions extends CallOptions {
  /** Is told how many bytes have come. */
  onProgress?: ((received: number) => void) | undefined;
}

/**
 * Writes a version's files as a tar.gz to `path`, a file or a folder that is there; gives the file's path. It is there
 * once it is whole.
 */
export async function downloadTo(
  client: Client,
  task: string,
  number: number,
  path: string,
  { onProgress, ...options }: DownloadOptions = {},
): Promise<string> {
  const inside = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const target = inside ? join(path, `${encodeURIComponent(task)}-${number}.tar.gz`) : path;
  const body = await client.download(task, number, options);
  let received = 0;
  async function* counted(source: AsyncIterable<Uint8Array>) {
    for await (const chunk of source) {
      received += chunk.byteLength;
      onProgress?.(received);
      yield chunk;
    }
  }
  const source = Readable.fromWeb(body as Parameters<typeof Readable.fromWeb>[0]);
  try {
    await pipeline(source, counted, createWriteStream(`${target}.part`));
    await rename(`${target}.part`, target);
  } finally {
    await rm(`${target}.part`, { force: true });
  }
  return target;
}
