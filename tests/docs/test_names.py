"""What the pages name is there for a reader: tasks, and nothing of a machine that the reader does not have."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ROOT, Block, blocks, pages, text

STORES = ("adapters_store", "examples/decoder_store")
SHIPPED = {folder.name for store in STORES for folder in (ROOT / store).iterdir() if folder.is_dir()} - {".manyhats"}
# How a command or a snippet makes a task, and how it asks for one.
MADE = [r"manyhats push (\S+)", r"--task (\S+)", r"\"lora_name\": \"([^\"]+)\"", r"\.upload\(\"([^\"]+)\""]
ASKED = [
    r"/v1/tasks/([^/\s]+)",
    r"manyhats (?:predict|show|rollback) (\S+)",
    r"\.(?:predict|set_alias|rollback|configure|pin|unpin|load|unload|download|delete|version|task)\(\"([^\"]+)\"",
    r"\"(?:task|model|adapter_id)\": \"([^\"]+)\"",
]
LISTS = [r"\"(?:tasks|ids)\": \[([^\]]+)\]", r"predict_tasks\(\[([^\]]+)\]"]
# A name that is asked for to show what happens to it.
WRONG = {("docs/errors.md", "spm"), ("docs/faq.md", "sentimant")}


def sources(block: Block) -> str:
    """A block's commands or its snippet, without outputs."""
    return block.content if block.language == "python" else "\n".join(command for command, _ in block.steps)


def tasks(source: str, patterns: list[str]) -> set[str]:
    """The tasks that a text names, without their versions and aliases."""
    return {name.partition("@")[0] for pattern in patterns for name in re.findall(pattern, source)}


@pytest.mark.parametrize("page", pages())
def test_every_task_is_shipped_or_made_before(page: str) -> None:
    known = SHIPPED | {"base"} | {task for where, task in WRONG if where == page}
    for block in blocks(page):
        if block.language in ("console", "sh", "python"):
            source = sources(block)
            known |= tasks(source, MADE)
            asked = tasks(source, ASKED)
            for names in (found for pattern in LISTS for found in re.findall(pattern, source)):
                asked |= tasks(names, [r"\"([^\"]+)\""])
            assert asked <= known, f"{block}: {sorted(asked - known)}"


def test_tasks_are_found_in_commands_and_snippets() -> None:
    """Else the test above would hold of anything."""
    found = {
        page: {
            task
            for block in blocks(page)
            if block.language in ("console", "sh", "python")
            for task in tasks(sources(block), ASKED)
        }
        for page in pages()
    }
    assert {"sentiment", "glosses-2", "interface-french", "base"} <= found["README.md"]
    assert {"spam", "parts-of-speech", "base"} <= found["clients/python/README.md"]
    assert "definitions" in found["docs/generation.md"]


@pytest.mark.parametrize("page", pages())
def test_no_page_names_a_machine_of_its_own(page: str) -> None:
    """No address but the loopback one, and no path outside the clone and the container."""
    content = text(page).replace("--tmpfs /tmp ", "")
    hosts = set(re.findall(r"https?://([\w.-]+)", content))
    assert hosts <= {"127.0.0.1", "github.com", "app.example.com", "arxiv.org"}, hosts
    places = re.findall(r"(?<![\w.:/`\])>}])/(?:home|root|work|tmp|usr|opt|Users)\b\S*", content)
    assert not places
