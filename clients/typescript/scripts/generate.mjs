// Writes the types of the server's answers from docs/openapi.json: those of this client, and those of the web page. With
// --check it fails where one of these files, or another that is named, is not what would be written.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const SOURCE = new URL("../../../docs/openapi.json", import.meta.url);
const HEADER = "// Made from docs/openapi.json by `make openapi`. Changes here are lost.\n\n";
const CLIENT = {
  file: fileURLToPath(new URL("../src/schema.ts", import.meta.url)),
  // The server's own routes, and those of other servers that this client uses.
  tags: ["predict", "versions", "tasks", "operations"],
  paths: ["/v1/chat/completions", "/v1/embeddings"],
};
const PAGE = {
  file: fileURLToPath(new URL("../../../server/page/src/server/schema.ts", import.meta.url)),
  tags: ["predict", "versions", "tasks"],
  paths: ["/v1/chat/completions", "/v1/overview", "/v1/traffic", "/v1/batches"],
};

/** The routes that are used, and no more; without titles and examples, which say nothing to it. */
function pruned(document, { tags, paths: named }) {
  const missing = named.filter((path) => !(path in document.paths));
  if (missing.length) throw new Error(`docs/openapi.json has no ${missing.join(", ")}`);
  const used = ([path, item]) =>
    named.includes(path) || Object.values(item).some((o) => tags.includes(o.tags?.[0]));
  const paths = Object.fromEntries(Object.entries(document.paths).filter(used));
  const schemas = {};
  const visit = (part) => {
    if (Array.isArray(part)) return part.forEach(visit);
    if (part === null || typeof part !== "object") return;
    if (Array.isArray(part.examples)) delete part.examples; // else a field of that name
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

const source = await readFile(SOURCE, "utf8");

async function written(target) {
  const document = pruned(JSON.parse(source), target);
  return HEADER + astToString(await openapiTS(document, { defaultNonNullable: false, transform }));
}

const [, , check, ...others] = process.argv;
for (const target of [CLIENT, PAGE]) {
  const text = await written(target);
  if (check !== "--check") {
    await writeFile(target.file, text);
    continue;
  }
  for (const file of [target.file, ...others]) {
    if ((await readFile(file, "utf8").catch(() => "")) === text) continue;
    console.error(`${file} is not what docs/openapi.json gives: run \`make openapi\``);
    process.exitCode = 1;
  }
}
