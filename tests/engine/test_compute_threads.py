"""Who has torch's threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from manyhats.backbone import Backbone
from manyhats.engine.compute_threads import run_in_temporary_thread, set_compute_threads, use_one_compute_thread
from manyhats.engine.config import EngineConfig
from manyhats.engine.engine import Engine
from manyhats.methods.bound_adapter import BARE

from tests import engines, tiny


@pytest.fixture
def threads() -> Iterator[None]:
    """Leaves torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    set_compute_threads(before)


def test_the_thread_has_ended_and_so_has_its_team() -> None:
    known = threading.active_count()
    assert run_in_temporary_thread(lambda: threading.current_thread().name).startswith("temporary")
    assert threading.active_count() == known
    with pytest.raises(ValueError, match="why"):
        run_in_temporary_thread(lambda: int("why"))


@pytest.mark.usefixtures("threads")
def test_a_thread_keeps_its_number_when_all_others_leave_theirs() -> None:
    with ThreadPoolExecutor(1) as model, ThreadPoolExecutor(1) as later:
        model.submit(set_compute_threads, 3).result()
        use_one_compute_thread()
        assert model.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 1
        assert later.submit(torch.get_num_threads).result() == 1


@pytest.mark.usefixtures("threads")
def test_the_models_thread_has_them(bert: Backbone) -> None:
    engine = Engine(bert, EngineConfig(max_num_batched_tokens=512, threads=3))
    seen: list[int] = []
    engine.runner.on_batch = lambda report: seen.append(torch.get_num_threads())
    engine.start()
    use_one_compute_thread()
    request = engines.one_pass(bert, BARE, tiny.texts([3]))
    engine.submit([request])
    request.future.result(30)
    engine.stop(30)
    assert seen == [3]
