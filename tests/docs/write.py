"""Writes the outputs of the documentation's commands into its pages again, from real runs.

    python -m tests.docs.write [--long] [PAGE ...]

Without `--long` the blocks of the quick tests alone. What a page shows already, but for what changes from run to run,
stays as it is.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs.compare import difference, written
from tests.docs.decoder import decoder_story
from tests.docs.demo import Demo, outputs
from tests.docs.handled import How, chosen, output_of
from tests.docs.pages import ROOT, Block, text
from tests.docs.story import Story


@contextmanager
def _story(what: How, folder: Path) -> Iterator[Story]:
    if what is How.DECODER:
        with decoder_story(folder) as story:
            yield story
    else:
        with Demo(folder) as demo:
            yield demo


def rewritten(block: Block, pairs: list[tuple[str, str]], trained: bool = False) -> tuple[Block, str] | None:
    """The block whose content is an output, or holds some, and its content with those of a run; None where nothing
    changed."""
    same = [difference(shown, given, trained) is None for shown, given in pairs]
    if all(same):
        return None
    kept = [shown if alike else written(given) for alike, (shown, given) in zip(same, pairs, strict=True)]
    if block.language == "python":
        below = output_of(block)
        if below is None:
            raise SystemExit(f"{block} prints something: a block `text` belongs behind it")
        return below, kept[0]
    return block, "".join(f"$ {command}\n{output}" for (command, _), output in zip(block.steps, kept, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the outputs in the documentation again.")
    parser.add_argument("pages", nargs="*", metavar="PAGE")
    parser.add_argument("--long", action="store_true", help="the long ones, too")
    options = parser.parse_args()
    changed: dict[str, list[tuple[Block, str]]] = {}
    try:
        for what in (How.QUICK, How.TRAINING, How.DECODER) if options.long else (How.QUICK,):
            found = {page: some for page, some in chosen(what).items() if not options.pages or page in options.pages}
            for page, blocks in found.items():
                with (
                    tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
                    _story(what, Path(folder)) as story,
                ):
                    for block in blocks:
                        new = rewritten(block, outputs(story, block), trained=what is How.TRAINING)
                        if new is not None:
                            changed.setdefault(page, []).append(new)
    finally:  # what has been run is kept where something later fails
        _write(changed)


def _write(changed: dict[str, list[tuple[Block, str]]]) -> None:
    for page, news in changed.items():
        lines = text(page).splitlines(keepends=True)
        for block, content in sorted(news, key=lambda new: -new[0].first):
            lines[block.first : block.last] = content.splitlines(keepends=True)
        (ROOT / page).write_text("".join(lines), encoding="utf-8")
        print(f"{page}: {', '.join(str(block.first) for block, _ in news)}")


if __name__ == "__main__":
    sys.exit(main())
