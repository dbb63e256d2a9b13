// Asking tasks: side by side, about the similarity of texts, and for texts.
import { useEffect } from "preact/hooks";
import { Problem } from "../parts/problem";
import { route, to } from "../router";
import { body, server } from "../server/client";
import type { Base } from "../server/types";
import { usePoll } from "../state/poll";
import { Ask } from "./ask";
import { Generate } from "./generate";
import { Similarity } from "./similarity";
import { learn } from "./facts";
import { asked, writers } from "./state";

const FRESH = 60; // seconds; what the backbone can do does not change while it runs

const WAYS = [
  { name: "ask", title: "Side by side", kind: null, view: Ask },
  { name: "similarity", title: "Similarity", kind: "embed", view: Similarity },
  { name: "generate", title: "Generate and chat", kind: "generate", view: Generate },
] as const;

/** `#/playground/similarity`; `#/playground/ask/spam` chooses that task, and the way to ask that is its kind's. */
export function Playground() {
  const polled = usePoll("base", (signal) => body(server.GET("/v1/tasks/{task}", { params: { path: { task: "base" } }, signal })) as Promise<Base>, FRESH);
  const base = polled.value.value;
  const [wanted = "ask", task] = route.value.rest;

  useEffect(() => {
    if (!task || !base) return;
    // The address goes, so that loading the page again does not undo what is chosen after this.
    void learn(task).then(({ task: found }) => {
      const writes = found?.kind === "generate";
      if (writes) writers.value = [task];
      else asked.value = [task];
      location.replace(to("playground", writes ? "generate" : "ask"));
    });
  }, [task, base]);

  if (!base || task) return <Problem of={polled} />;
  const offered = WAYS.filter(({ kind }) => !kind || base.kinds.includes(kind));
  const way = offered.find(({ name }) => name === wanted) ?? WAYS[0];
  return (
    <div class="stack playground">
      <nav class="ways" aria-label="Ways to ask">
        {offered.map(({ name, title }) => (
          <a key={name} href={to("playground", name)} aria-current={name === way.name ? "page" : undefined}>{title}</a>
        ))}
      </nav>
      {!base.kinds.includes("generate") && (
        <p class="soft small">Nothing is generated here, as {base.backbone} is an encoder: a server whose backbone is a decoder offers texts and chats as well.</p>
      )}
      <way.view base={base} />
    </div>
  );
}
