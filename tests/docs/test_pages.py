"""Every command and every snippet of the documentation runs, in the order of its page, and gives what the page shows.

What cannot run here stands in `handled.py`; the long ones are in `test_long.py`. `python -m tests.docs.write` writes
the outputs into the pages again.
"""

from __future__ import annotations

import json
import re

import httpx
import pytest
import torch
from safetensors.torch import save_file

from tests.docs.compare import difference
from tests.docs.demo import Demo, outputs
from tests.docs.handled import How, chosen, data_check
from tests.docs.pages import Block, blocks, pages
from tests.docs.story import PORT

QUICK = chosen(How.QUICK)
# One server is enough: with --dist loadgroup all of this goes to one process.
pytestmark = [pytest.mark.real, pytest.mark.xdist_group("docs")]


@pytest.mark.parametrize("page", QUICK)
def test_commands_give_what_the_page_shows(demo: Demo, page: str) -> None:
    told = []
    with demo.page() as story:
        for block in QUICK[page]:
            for shown, given in outputs(story, block):
                if (wrong := difference(shown, given)) is not None:
                    told.append(f"{block}: {wrong}")
    assert not told, "\n".join([*told, "python -m tests.docs.write writes the pages' outputs again"])


def test_a_story_tells_of_a_command_that_fails(demo: Demo) -> None:
    with pytest.raises(AssertionError, match="no-such-task"):
        demo.command(".venv/bin/manyhats predict no-such-task x")


def named(check: str) -> Block:
    """The block that a check is for."""
    return next(block for page in pages() for block in blocks(page) if data_check(block) == check)


def test_a_mask_of_the_form_that_the_page_shows_is_taken_and_answers(demo: Demo) -> None:
    fields = json.loads(named("mask").content)
    url = f"http://127.0.0.1:{demo.ports[PORT]}"
    fields["base_sha256"] = httpx.post(f"{url}/v1/tasks/base/predict", json={"inputs": "x"}).json()["sha256"]
    folder = demo.folder / "mask"
    folder.mkdir()
    (folder / "manyhats.json").write_text(json.dumps(fields))
    tensors = {"head.0.weight": torch.randn(2, 384), "head.0.bias": torch.zeros(2)}
    for layer, (rows, columns) in fields["shapes"].items():
        tensors[f"{layer}.mask"] = torch.full((rows * columns // 8,), 255, dtype=torch.uint8)
    save_file(tensors, folder / "weights.safetensors")
    with demo.page() as story:
        story.command(".venv/bin/manyhats push opinions mask")
        (output,) = json.loads(story.command(".venv/bin/manyhats predict opinions x"))
        assert set(output["scores"]) == set(fields["task"]["labels"])


def test_the_store_looks_as_the_page_shows_it(demo: Demo) -> None:
    store = demo.folder / "adapters_store"
    shown = re.findall(r"^<store>/(\S+)", named("store").content, re.MULTILINE)
    hidden = {place.split("/")[1] for place in shown if place.startswith(".manyhats/")}
    there = {path.name for path in (store / ".manyhats").iterdir()}
    assert hidden == there - {"registry.sqlite3-shm", "registry.sqlite3-wal"}  # SQLite's own, while it is open
    sha256 = httpx.get(f"http://127.0.0.1:{demo.ports[PORT]}/v1/tasks/spam").json()["versions"][0]["sha256"]
    assert (store / ".manyhats" / "blobs" / sha256).is_dir()
