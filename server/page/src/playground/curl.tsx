// The request on screen, as a command.
import { announce } from "../state/announce";
import { key } from "../state/key";

export interface Command {
  /** Below the page's own address. */
  address: string;
  body: unknown;
  streams?: boolean;
}

/** The command; in place of the key there is a variable. */
export function curl({ address, body, streams }: Command): string {
  const lines = [
    `curl -s${streams ? "N" : ""} ${quoted(new URL(address, document.baseURI).href)}`,
    `-H 'Content-Type: application/json'`,
    ...(key.value ? [`-H "Authorization: Bearer $MANYHATS_KEY"`] : []),
    `-d ${quoted(JSON.stringify(body, null, 1))}`,
  ];
  return lines.join(" \\\n    ");
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

export function AsCurl(command: Command) {
  const text = curl(command);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      announce("The command is copied.");
    } catch {
      announce("The browser lets nothing be copied here; select the command instead.", true);
    }
  };
  return (
    <details class="curl">
      <summary>As curl</summary>
      <pre tabIndex={0} aria-label="The request as a curl command">{text}</pre>
      <button type="button" onClick={() => void copy()}>Copy</button>
    </details>
  );
}
