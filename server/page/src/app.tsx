// The frame around every view: what stays, and which view is shown in it.
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Batches } from "./batches";
import { ConfirmDialog } from "./parts/confirm";
import { KeyDialog } from "./parts/key";
import { Messages } from "./parts/messages";
import { Playground } from "./playground";
import { route, to } from "./router";
import { key, keyAsked, keyRefused } from "./state/key";
import { nextTheme, theme } from "./state/theme";
import { TaskView } from "./task";
import { Tasks } from "./tasks";
import { Upload } from "./upload";

interface View {
  name: string;
  title: string;
  /** `first`: what stands behind the name in the address. */
  view: (first?: string) => VNode;
}

const VIEWS: View[] = [
  { name: "tasks", title: "Tasks", view: () => <Tasks /> },
  { name: "playground", title: "Playground", view: () => <Playground /> },
  { name: "upload", title: "Upload", view: (task) => <Upload key={task} {...(task === undefined ? {} : { task })} /> },
  { name: "batches", title: "Batches", view: () => <Batches /> },
];

export function App() {
  const { view, rest } = route.value;
  const task = view === "tasks" ? rest[0] : undefined;
  const shown = VIEWS.find(({ name }) => name === view);
  const title = task ?? shown?.title ?? "Not found";
  const heading = useRef<HTMLHeadingElement>(null);
  const first = useRef(true);

  useEffect(() => {
    document.title = `${title} · Manyhats`;
    // Where the reader goes on after following a link, as on a page that was loaded.
    if (!first.current) heading.current?.focus();
    first.current = false;
  }, [title]);

  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); heading.current?.focus(); }}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href={to("tasks")}>Manyhats</a>
        <nav aria-label="Views">
          {VIEWS.map(({ name, title }) => (
            <a key={name} href={to(name)} aria-current={name === view ? "page" : undefined}>{title}</a>
          ))}
        </nav>
        <div class="tools">
          <button type="button" class="quiet" onClick={() => { keyAsked.value = true; }}>
            {key.value ? "Key set" : "Key"}
          </button>
          <button type="button" class="quiet" onClick={nextTheme} aria-label={`Colours: ${theme.value}. Change`}>
            {theme.value === "system" ? "Auto" : theme.value === "light" ? "Light" : "Dark"}
          </button>
        </div>
      </header>
      <main id="main" aria-labelledby="title">
        {keyRefused.value && (
          <div class="notice bad" role="alert">
            <p>{keyRefused.value.message}</p>
            <button type="button" onClick={() => { keyAsked.value = true; }}>Enter a key</button>
          </div>
        )}
        <h1 id="title" ref={heading} tabIndex={-1}>{title}</h1>
        {task !== undefined ? <TaskView key={task} name={task} /> : shown ? shown.view(rest[0]) : <p>There is no such view.</p>}
      </main>
      <footer class="bottom">
        <a href="docs">Interface</a>
        <a href="metrics">Metrics</a>
      </footer>
      <KeyDialog />
      <ConfirmDialog />
      <Messages />
    </>
  );
}
