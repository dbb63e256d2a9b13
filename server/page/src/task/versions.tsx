import { confirm } from "../parts/confirm";
import { bytes, date } from "../parts/format";
import { QuarantineBadge } from "../parts/quarantine";
import { address, body, server } from "../server/client";
import type { Task, Version } from "../server/types";
import { announce, announceError } from "../state/announce";
import { key } from "../state/key";
import { shares } from "./split";

interface Props {
  task: Task;
  /** The version whose card is shown. */
  shown: number | null;
  refresh: () => void;
  onShow: (version: number) => void;
}

export function Versions({ task, shown, refresh, onShow }: Props) {
  const aliases = new Map<number, string[]>();
  for (const [alias, target] of Object.entries(task.aliases)) {
    for (const { version } of shares(target)) aliases.set(version, [...(aliases.get(version) ?? []), alias]);
  }
  return (
    <section class="panel flush" aria-labelledby="versions">
      <h2 id="versions">Versions</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Table of versions">
        <table>
          <thead>
            <tr>
              <th scope="col">Version</th>
              <th scope="col">Aliases</th>
              <th scope="col" class="wide">Method</th>
              <th scope="col" class="wide">Kind</th>
              <th scope="col" class="wide num">Rank</th>
              <th scope="col" class="wide num">Tensors</th>
              <th scope="col" class="wide num">Size</th>
              <th scope="col" class="wide">Uploaded</th>
              <th scope="col" class="wide">sha256</th>
              <th scope="col"><span class="unseen">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            {task.versions.toReversed().map((version) => (
              <Row key={version.version} task={task} version={version} aliases={aliases.get(version.version) ?? []}
                shown={version.version === shown} refresh={refresh} onShow={onShow} />
            ))}
            {!task.versions.length && <tr><td colSpan={10} class="soft">No version yet.</td></tr>}
          </tbody>
        </table>
      </div>
    </section>
  );
}

interface RowProps {
  task: Task;
  version: Version;
  aliases: string[];
  shown: boolean;
  refresh: () => void;
  onShow: (version: number) => void;
}

function Row({ task, version, aliases, shown, refresh, onShow }: RowProps) {
  const number = version.version;
  const own = { path: { task: task.name, number } };
  const file = address("/v1/tasks/{task}/versions/{number}/download", own.path);
  const which = <span class="unseen"> version {number}</span>;
  const stable = task.aliases.stable === number;

  const point = async () => {
    try {
      const params = { path: { task: task.name, alias: "stable" } };
      await server.PUT("/v1/tasks/{task}/aliases/{alias}", { params, body: { version: number } });
      announce(`${task.name}: stable points at version ${number}.`);
      refresh();
    } catch (error) {
      announceError(error);
    }
  };
  const remove = () => confirm({
    title: `Delete version ${number} of ${task.name}?`,
    text: aliases.length
      ? `The server refuses it while an alias points at it: ${aliases.join(", ")}.`
      : "Its files go. This cannot be undone; download them first to keep them.",
    action: `Delete version ${number}`,
    done: `Version ${number} of ${task.name} is deleted.`,
    run: async () => {
      await server.DELETE("/v1/tasks/{task}/versions/{number}", { params: own });
      refresh();
    },
  });
  // A link sends no key: with one, the file passes through the page.
  const download = async (event: Event) => {
    if (!key.value) return;
    event.preventDefault();
    try {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(await body(server.GET("/v1/tasks/{task}/versions/{number}/download", { params: own, parseAs: "blob" })));
      link.download = `${task.name}-${number}.tar.gz`;
      link.click();
      URL.revokeObjectURL(link.href);
    } catch (error) {
      announceError(error);
    }
  };

  return (
    <tr aria-current={shown ? "true" : undefined}>
      <th scope="row">{number} <QuarantineBadge of={version} /></th>
      <td>
        <span class="narrow soft">{version.method}, {bytes(version.bytes)}, {date(version.created)}</span>
        {aliases.map((alias) => <span key={alias} class="badge memory">{alias}</span>)}
        {version.evaluation && !version.evaluation.activated && (
          <span class="badge bad" title={version.evaluation.reason}>not activated</span>
        )}
      </td>
      <td class="wide">{version.method}</td>
      <td class="wide">{version.kind}</td>
      <td class="wide num">{version.rank ?? "–"}</td>
      <td class="wide num">{version.matched_tensors}</td>
      <td class="wide num">{bytes(version.bytes)}</td>
      <td class="wide nowrap">{date(version.created)}</td>
      <td class="wide mono"><span title={version.sha256}>{version.sha256.slice(0, 8)}</span></td>
      <td>
        <div class="buttons tight">
          <button type="button" class="quiet" aria-pressed={shown} onClick={() => onShow(number)}>Card{which}</button>
          {!stable && <button type="button" class="quiet" onClick={point}>Make stable{which}</button>}
          <a class="button quiet" href={file} download onClick={download}>Download{which}</a>
          <button type="button" class="quiet danger" onClick={remove}>Delete{which}</button>
        </div>
      </td>
    </tr>
  );
}
