// Bundles the page into the server's package: index.html, page.js, page.css. `node build.mjs [FOLDER]`.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const folder = resolve(process.argv[2] ?? join(here, "../manyhats/api/static"));

const { outputFiles } = await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: folder,
  write: false,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "inline",
});

mkdirSync(folder, { recursive: true });
let html = readFileSync(join(here, "src/index.html"), "utf8");
for (const { path, contents } of outputFiles) {
  const name = path.slice(folder.length + 1);
  writeFileSync(path, contents);
  // A browser keeps what it has loaded: another bundle has another address.
  const digest = createHash("sha256").update(contents).digest("hex").slice(0, 12);
  html = html.replace(`page/${name}`, `page/${name}?${digest}`);
}
writeFileSync(join(folder, "index.html"), html);
