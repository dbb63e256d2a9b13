import { useSignal } from "@preact/signals";
import { bytes, counted } from "../parts/format";
import { dropped } from "./files";

interface Props {
  files: File[];
  onFiles: (files: File[]) => void;
  onProblem: (message: string) => void;
}

/** A place for files: they are dropped on it, or chosen with its own field. */
export function DropZone({ files, onFiles, onProblem }: Props) {
  const over = useSignal(false);

  const drop = async (event: DragEvent) => {
    event.preventDefault();
    over.value = false;
    if (!event.dataTransfer) return;
    try {
      onFiles(await dropped(event.dataTransfer));
    } catch (error) {
      onProblem((error as Error).message);
    }
  };

  return (
    <div class={over.value ? "drop over" : "drop"}
      onDragOver={(event) => { event.preventDefault(); over.value = true; }}
      onDragLeave={() => { over.value = false; }}
      onDrop={drop}>
      <label for="upload-files">Files of the adapter, or one zip or tar.gz</label>
      <p class="soft">Drop them or their folder here, or choose them:</p>
      <input id="upload-files" type="file" multiple onChange={(event) => onFiles([...(event.currentTarget.files ?? [])])} />
      {files.length > 0 && (
        <>
          <p class="unseen" role="status">{counted(files.length, "file")} chosen.</p>
          <ul class="files" aria-label="Chosen files">
            {files.map((file) => <li key={file.name}><span class="mono">{file.name}</span><span class="soft">{bytes(file.size)}</span></li>)}
          </ul>
        </>
      )}
    </div>
  );
}
