// The form of an upload, and how much of it is sent.

import type { Progress, UploadOptions, UploadSource } from "./types.js";

/** The form's fields, as the server names them. */
export interface UploadFields {
  files?: File[];
  archive?: File;
  task?: string;
  alias?: string;
  activate?: boolean;
}

export function fieldsOf(source: UploadSource, options: UploadOptions): UploadFields {
  const fields: UploadFields = {};
  if (source instanceof File) fields.archive = source;
  else {
    fields.files = Object.entries(source).map(([name, content]) => new File([content], name));
    if (!fields.files.length) throw new TypeError("there are no files to send");
  }
  if (options.settings) fields.task = JSON.stringify(options.settings);
  if (options.alias !== undefined) fields.alias = options.alias;
  if (options.activate !== undefined) fields.activate = options.activate;
  return fields;
}

export function formOf(fields: UploadFields): FormData {
  const form = new FormData();
  // The settings first: they are checked before the files are received.
  for (const name of ["task", "alias", "activate"] as const) {
    if (fields[name] !== undefined) form.append(name, String(fields[name]));
  }
  if (fields.archive) form.append("archive", fields.archive, fields.archive.name);
  for (const file of fields.files ?? []) form.append("files", file, file.name);
  return form;
}

export function sizeOf(fields: UploadFields): number {
  return (fields.archive?.size ?? 0) + (fields.files ?? []).reduce((sum, file) => sum + file.size, 0);
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
