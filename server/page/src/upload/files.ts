// The files of what was dropped: files, one archive, or a folder's.

/** Raises an Error for a folder with folders in it. */
export async function dropped(transfer: DataTransfer): Promise<File[]> {
  // Entries must be taken at once: the transfer is empty after the first wait.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry());
  const plain = [...transfer.files];
  if (!entries.some((entry) => entry?.isDirectory)) return plain;
  const found: File[] = [];
  for (const entry of entries) {
    if (entry?.isFile) found.push(await file(entry as FileSystemFileEntry));
    if (entry?.isDirectory) found.push(...(await folder(entry as FileSystemDirectoryEntry)));
  }
  return found;
}

async function folder(directory: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = directory.createReader();
  const found: File[] = [];
  for (;;) {
    // At most a hundred at a time; none at the end.
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const entry of entries) {
      if (entry.isDirectory) {
        throw new Error(`“${directory.name}” has a folder in it, “${entry.name}”. Send it as one zip or tar.gz.`);
      }
      found.push(await file(entry as FileSystemFileEntry));
    }
  }
}

function file(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}
