// The form of an upload, and how much of it is sent.

import { Zip, ZipPassThrough } from "fflate";
import type { Content, Examples, Progress, UploadOptions, UploadSource } from "./types.js";

/** The form's fields, as the server names them. */
export interface UploadFields {
  files?: File[];
  archive?: File;
  task?: string;
  alias?: string;
  activate?: boolean;
  gate?: string;
  examples?: File;
}

/** The form of an upload. Rejects with a TypeError for what is no adapter. */
export async function fieldsOf(source: UploadSource, options: UploadOptions): Promise<UploadFields> {
  const { settings, alias, activate, examples, maxDrop, metric } = options;
  const fields: UploadFields = {};
  if (source instanceof Blob || source instanceof Uint8Array) fields.archive = await archiveOf(source);
  else {
    const files = Object.entries(source);
    if (!files.length) throw new TypeError("there are no files to send");
    // A part's name has no folders.
    if (files.some(([name]) => name.includes("/"))) fields.archive = await packed(files);
    else fields.files = files.map(([name, content]) => new File([content], name));
  }
  if (settings) fields.task = JSON.stringify(settings);
  if (alias !== undefined) fields.alias = alias;
  if (activate !== undefined) fields.activate = activate;
  if (examples !== undefined) {
    fields.gate = JSON.stringify({ max_drop: maxDrop, metric });
    fields.examples = examplesOf(examples);
  } else if (maxDrop !== undefined || metric !== undefined) {
    throw new TypeError("maxDrop and metric need labelled examples");
  }
  return fields;
}

export function formOf(fields: UploadFields): FormData {
  const form = new FormData();
  // The settings first: they are checked before the files are received.
  for (const name of ["task", "alias", "activate", "gate"] as const) {
    if (fields[name] !== undefined) form.append(name, String(fields[name]));
  }
  if (fields.archive) form.append("archive", fields.archive, fields.archive.name);
  for (const file of fields.files ?? []) form.append("files", file, file.name);
  if (fields.examples) form.append("examples", fields.examples, fields.examples.name);
  return form;
}

export function sizeOf({ archive, files = [], examples }: UploadFields): number {
  return [archive, ...files, examples].reduce((sum, file) => sum + (file?.size ?? 0), 0);
}

const ARCHIVES = /\.(zip|tar\.gz|tgz|tar)$/i;
// How they begin.
const MAGIC: [number[], string][] = [
  [[0x50, 0x4b, 0x03, 0x04], ".zip"],
  [[0x1f, 0x8b], ".tar.gz"],
];

/** An archive under its own name, or under one after how it begins. */
async function archiveOf(source: Blob | Uint8Array<ArrayBuffer>): Promise<File> {
  if (source instanceof File && ARCHIVES.test(source.name)) return source;
  const blob = source instanceof Blob ? source : new Blob([source]);
  const start = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  const found = MAGIC.find(([magic]) => magic.every((byte, i) => start[i] === byte));
  if (!found) throw new TypeError("this is no archive (zip, tar.gz); files are given by their names");
  return new File([blob], `adapter${found[1]}`);
}

/** Files in folders as one zip, whose content is as it was: weights hardly shrink. */
async function packed(files: [string, Content][]): Promise<File> {
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let failure: Error | null = null;
  const zip = new Zip((error, chunk) => {
    if (error) failure ??= error;
    else chunks.push(chunk as Uint8Array<ArrayBuffer>);
  });
  for (const [name, content] of files) {
    const entry = new ZipPassThrough(name);
    zip.add(entry);
    for await (const chunk of new Blob([content]).stream()) entry.push(chunk);
    entry.push(new Uint8Array(), true);
  }
  zip.end();
  if (failure) throw failure;
  return new File(chunks, "adapter.zip");
}

function examplesOf(examples: Examples): File {
  const given =
    typeof examples === "string" || examples instanceof Blob || examples instanceof Uint8Array
      ? examples
      : Array.from(examples, (row) => `${JSON.stringify(row)}\n`).join("");
  return new File([given], "examples.jsonl");
}

type OnProgress = (progress: Progress) => void;

/** A request that counts what is taken of its body, for platforms that stream bodies. */
export function countedRequest(
  first: Request,
  form: FormData,
  total: number,
  onProgress: OnProgress,
): Request {
  const encoded = new Response(form);
  const headers = new Headers(first.headers);
  headers.set("content-type", encoded.headers.get("content-type") ?? "");
  let sent = 0;
  const counting = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(chunk, controller) {
      sent += chunk.byteLength;
      onProgress({ sent: Math.min(sent, total), total });
      controller.enqueue(chunk);
    },
  });
  const body = encoded.body?.pipeThrough(counting) ?? null;
  return new Request(first.url, { method: first.method, headers, body, duplex: "half" } as RequestInit);
}

/** A request whose form the platform encodes itself. */
export function formRequest(first: Request, form: FormData): Request {
  const headers = new Headers(first.headers);
  headers.delete("content-type"); // has the boundary of another encoding
  return new Request(first.url, { method: first.method, headers, body: form });
}

/** Sends a form by XMLHttpRequest, which says how much is sent where fetch does not: in browsers. */
export function sentByXhr(
  form: FormData,
  total: number,
  onProgress: OnProgress,
): (request: Request) => Promise<Response> {
  return (request) =>
    new Promise((resolve, reject) => {
      const xhr = new XMLHttpRequest();
      xhr.open(request.method, request.url);
      request.headers.forEach((value, name) => {
        if (name !== "content-type") xhr.setRequestHeader(name, value);
      });
      xhr.responseType = "arraybuffer";
      xhr.upload.onprogress = ({ loaded }) => onProgress({ sent: Math.min(loaded, total), total });
      xhr.onload = () => {
        const lines = xhr
          .getAllResponseHeaders()
          .trim()
          .split(/[\r\n]+/);
        const headers = lines.map(
          (line) => [line.split(": ", 1)[0] ?? "", line.replace(/^.*?: /, "")] as [string, string],
        );
        resolve(new Response(xhr.response, { status: xhr.status, statusText: xhr.statusText, headers }));
      };
      xhr.onerror = () => reject(new TypeError("the upload failed"));
      xhr.onabort = () => reject(request.signal.reason);
      request.signal.addEventListener("abort", () => xhr.abort(), { once: true });
      xhr.send(form);
    });
}
