// An upload, with its progress: `fetch` does not tell how much of a body has gone.
import { address, authorization, Refused, refusal } from "../server/client";
import type { Uploaded, UploadPart } from "../server/types";

export interface Form {
  task: string;
  files: File[];
  alias: string;
  activate: boolean;
  /** JSON of the task's settings, or nothing. */
  settings: string;
}

export interface Answer {
  body: Uploaded;
  /** Whether a version was made; else the same files were there before. */
  created: boolean;
}

const ARCHIVE = /\.(zip|tar|tar\.gz|tgz)$/i;

/** Whether these files are one archive, which the server unpacks. */
export function isArchive(files: File[]): boolean {
  return files.length === 1 && ARCHIVE.test(files[0]?.name ?? "");
}

/** Sends it; `onProgress` hears the share that has gone, from 0 to 1. Raises Refused, or an AbortError. */
export function send(form: Form, onProgress: (share: number) => void, signal: AbortSignal): Promise<Answer> {
  const parts = new FormData();
  const add = (name: UploadPart, ...given: [string] | [Blob, string]) => parts.append(name, ...(given as [Blob, string]));
  // The server reads the texts before it looks at the files.
  add("alias", form.alias);
  add("activate", String(form.activate));
  if (form.settings.trim()) add("task", form.settings);
  for (const file of form.files) add(isArchive(form.files) ? "archive" : "files", file, file.name);

  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address("/v1/tasks/{task}/versions", { task: form.task }));
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => onProgress(total ? loaded / total : 0);
    request.upload.onload = () => onProgress(1);
    request.onload = () => {
      if (request.status !== 200 && request.status !== 201) reject(refusal(request.status, request.responseText));
      else resolve({ body: JSON.parse(request.responseText) as Uploaded, created: request.status === 201 });
    };
    request.onerror = () => reject(new Refused(0, "The connection broke. The server may have refused the upload before it was all there."));
    request.onabort = () => reject(new DOMException("The upload was stopped.", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(parts);
  });
}
