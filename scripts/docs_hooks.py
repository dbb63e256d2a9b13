"""What the documentation's site has beyond the pages in docs/: pages that lie elsewhere in the repository, and
references that are made as it is built. mkdocs.yml names this file."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.references import commands, rest  # noqa: E402

# Pages of the site by where they lie in the repository.
ELSEWHERE = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/results/methods.md": "results.md",
    "clients/python/README.md": "python-client.md",
    "clients/typescript/README.md": "typescript-client.md",
    "examples/mail_triage/README.md": "mail-triage.md",
}
NOTEBOOKS = {"examples/from_csv_to_task.ipynb": "from-csv-to-task.md"}
MADE = {"rest.md": rest, "command-line.md": commands}
MARK = "<!-- made here -->"
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that lie elsewhere, and notebooks with the outputs that they hold."""
    for path, name in ELSEWHERE.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    for path, name in NOTEBOOKS.items():
        text, resources = MarkdownExporter().from_filename(str(ROOT / path))
        files.append(File.generated(config, name, content=text))
        for picture, content in resources["outputs"].items():
            files.append(File.generated(config, picture, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Puts in what is made here, and has links between the repository's pages lead to those of the site."""
    name = page.file.src_uri
    if name in MADE:
        assert MARK in markdown, f"docs/{name} has no place for what is made here: {MARK}"
        markdown = markdown.replace(MARK, MADE[name]())
    origin = next((path for path, site in (ELSEWHERE | NOTEBOOKS).items() if site == name), f"docs/{name}")
    return links(markdown, origin)


def links(markdown: str, origin: str) -> str:
    """A page's text with the links that a site's page needs. `origin`: where it lies in the repository. What is in the
    repository and not on the site is left as text."""

    def replaced(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        path = os.path.normpath(os.path.join(os.path.dirname(origin), target))
        if site := (ELSEWHERE | NOTEBOOKS).get(path):
            return f"[{text}]({site}{anchor})"
        if path.startswith("docs/"):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})"
        return text if (ROOT / path).exists() else found[0]

    pieces, last = [], 0
    for fence in _FENCE.finditer(markdown):
        pieces += [_LINK.sub(replaced, markdown[last : fence.start()]), fence[0]]
        last = fence.end()
    return "".join([*pieces, _LINK.sub(replaced, markdown[last:])])
