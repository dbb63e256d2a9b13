"""The documentation's long commands: trainings, the decoder, and a start with pip alone in an empty environment.

They fetch data, a model and packages from the registries.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.docs.compare import difference
from tests.docs.decoder import decoder_story
from tests.docs.demo import Demo, outputs
from tests.docs.empty import Empty, pip_brings_cuda
from tests.docs.handled import How, chosen
from tests.docs.pages import Block
from tests.docs.story import Story

pytestmark = [pytest.mark.slow, pytest.mark.real]
TRAINING, DECODER, EMPTY = chosen(How.TRAINING), chosen(How.DECODER), chosen(How.EMPTY)


def check(story: Story, blocks: list[Block], trained: bool = False) -> None:
    """Runs blocks one after another; every output must be the one that the page shows."""
    for block in blocks:
        for shown, given in outputs(story, block):
            wrong = difference(shown, given, trained)
            assert wrong is None, f"{block}: {wrong}\npython -m tests.docs.write --long writes the outputs again"


LONGEST = {"README.md", "docs/training.md"}  # others' are with the slow ones
LONGEST_DECODER = {"docs/generation.md"}


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.long) if page in LONGEST else page for page in TRAINING]
)
def test_trainings_give_what_the_page_shows(demo: Demo, page: str) -> None:
    with demo.page() as story:
        check(story, TRAINING[page], trained=True)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.long) if page in LONGEST_DECODER else page for page in DECODER]
)
def test_a_decoder_writes_what_the_page_shows(tmp_path_factory: pytest.TempPathFactory, page: str) -> None:
    with decoder_story(tmp_path_factory.mktemp("clone")) as story:
        check(story, DECODER[page])


@pytest.mark.long
def test_pip_alone_starts_the_server_in_an_empty_environment(tmp_path: Path) -> None:
    """All that the pages install with pip, in the order of the pages, into the environment that the first one makes."""
    if pip_brings_cuda():
        pytest.skip("pip would fetch a build of torch for CUDA here, of several GB")
    left = dict(EMPTY)
    first, *others = [block for page in ("README.md", *EMPTY) for block in left.pop(page, [])]
    with Empty(tmp_path) as story:
        check(story, [first])
        (output,) = json.loads(story.command('.venv/bin/manyhats predict sentiment "What a lovely day."'))
        assert output["label"] == "positive"
        versions = story.imported("import transformers, torch; print(transformers.__version__, torch.__version__)")
        locked = dict(
            line.split(" ")[0].split("==")
            for line in (story.folder / "requirements/constraints.txt").read_text().splitlines()
            if "==" in line and not line.startswith("#")
        )
        assert versions.split()[0] == locked["transformers"]
        assert versions.split()[0].startswith("5.")
        assert versions.split()[1].split("+")[0] == locked["torch"]
        assert story.imported('import importlib.util as i; print(i.find_spec("sentence_transformers"))') == "None"
        check(story, others)
        needed = "from manyhats.training.libraries import TRAINING, require; [require(one) for one in TRAINING]"
        assert story.imported(f"{needed}; import manyhats_client; print(len(TRAINING))") != "0"
