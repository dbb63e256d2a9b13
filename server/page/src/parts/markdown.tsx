// A card's Markdown as elements: no text of a card ever becomes markup of the page.
import { marked, type Token, type Tokens } from "marked";
import type { ComponentChildren } from "preact";

const HEAD = /^---\n[\s\S]*?\n---\n/; // the card's own fields, for machines
const SAFE = /^(https?:|mailto:|#)/i;

export function Markdown({ text }: { text: string }) {
  return <div class="markdown">{all(marked.lexer(text.replace(HEAD, "")))}</div>;
}

function all(tokens: Token[] | undefined): ComponentChildren {
  return (tokens ?? []).map(one);
}

function one(token: Token): ComponentChildren {
  switch (token.type) {
    case "heading":
      // Below the heading of the panel.
      return token.depth <= 1 ? <h3>{all(token.tokens)}</h3> : <h4>{all(token.tokens)}</h4>;
    case "paragraph":
      return <p>{all(token.tokens)}</p>;
    case "list": {
      const items = (token as Tokens.List).items.map((item) => <li>{all(item.tokens)}</li>);
      return token.ordered ? <ol>{items}</ol> : <ul>{items}</ul>;
    }
    case "blockquote":
      return <blockquote>{all(token.tokens)}</blockquote>;
    case "code":
      return <pre tabIndex={0}><code>{token.text}</code></pre>;
    case "table":
      return <Table of={token as Tokens.Table} />;
    case "hr":
      return <hr />;
    case "space":
    case "def":
      return null;
    case "strong":
      return <strong>{all(token.tokens)}</strong>;
    case "em":
      return <em>{all(token.tokens)}</em>;
    case "del":
      return <del>{all(token.tokens)}</del>;
    case "codespan":
      return <code>{unescaped(token.text)}</code>;
    case "br":
      return <br />;
    case "link":
      return SAFE.test(token.href) ? <a href={token.href} rel="noreferrer">{all(token.tokens)}</a> : <>{all(token.tokens)}</>;
    case "image":
      // The page loads nothing; what the picture shows is in its words.
      return null;
    case "text":
    case "escape":
      return "tokens" in token && token.tokens ? <>{all(token.tokens)}</> : unescaped(token.text);
    default:
      return token.raw; // HTML too: shown as it is written
  }
}

function Table({ of }: { of: Tokens.Table }) {
  const side = (i: number) => (of.align[i] === "right" ? "num" : undefined);
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label="Table">
      <table>
        {of.header.some((cell) => cell.text) && (
          <thead><tr>{of.header.map((cell, i) => (cell.text ? <th scope="col" class={side(i)}>{all(cell.tokens)}</th> : <td />))}</tr></thead>
        )}
        <tbody>
          {of.rows.map((row) => <tr>{row.map((cell, i) => <td class={side(i)}>{all(cell.tokens)}</td>)}</tr>)}
        </tbody>
      </table>
    </div>
  );
}

const ENTITIES: Record<string, string> = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'" };

/** The lexer writes some signs as entities, for HTML. */
function unescaped(text: string): string {
  return text.replace(/&(?:amp|lt|gt|quot|#39);/g, (entity) => ENTITIES[entity] ?? entity);
}
