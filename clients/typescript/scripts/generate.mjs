// Writes src/schema.ts from docs/openapi.json. With --check it fails where that file, or another that is named, is not
// what would be written.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const SOURCE = new URL("../../../docs/openapi.json", import.meta.url);
const TARGET = fileURLToPath(new URL("../src/schema.ts", import.meta.url));
const HEADER = "// Made from docs/openapi.json by `npm run generate`. Changes here are lost.\n\n";
// The server's own routes, and those of other servers that this client uses.
const TAGS = ["predict", "versions", "tasks", "operations"];
const PATHS = ["/v1/chat/completions", "/v1/embeddings"];

/** The routes that the client uses, and no more; without titles and examples, which say nothing to it. */
function pruned(document) {
  const used = ([path, item]) =>
    PATHS.includes(path) || Object.values(item).some((o) => TAGS.includes(o.tags?.[0]));
  const paths = Object.fromEntries(Object.entries(document.paths).filter(used));
  const schemas = {};
  const visit = (part) => {
    if (Array.isArray(part)) return part.forEach(visit);
    if (part === null || typeof part !== "object") return;
    delete part.examples;
    if (typeof part.title === "string") delete part.title;
    if (typeof part.$ref === "string") {
      const name = part.$ref.split("/").at(-1);
      if (!(name in schemas)) {
        schemas[name] = document.components.schemas[name];
        visit(schemas[name]);
      }
    }
    // A discriminator's references are those of its schema.
    for (const [key, inner] of Object.entries(part)) if (key !== "discriminator") visit(inner);
  };
  visit(paths);
  const sorted = Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1)));
  return { ...document, paths, components: { schemas: sorted } };
}

/** Files are blobs; everything else is as the generator has it. */
function transform(schema) {
  if (schema.format !== "binary") return undefined;
  return ts.factory.createTypeReferenceNode(ts.factory.createIdentifier("Blob"));
}

const document = pruned(JSON.parse(await readFile(SOURCE, "utf8")));
const written = HEADER + astToString(await openapiTS(document, { defaultNonNullable: false, transform }));
const [, , check, ...others] = process.argv;
if (check !== "--check") {
  await writeFile(TARGET, written);
} else {
  for (const file of [TARGET, ...others]) {
    if ((await readFile(file, "utf8").catch(() => "")) === written) continue;
    console.error(`${file} is not what docs/openapi.json gives: run \`npm run generate\``);
    process.exitCode = 1;
  }
}
