"""Measures passes on the pretended device."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from manyhats.backbone import Backbone
from manyhats.methods.slots import SlotTables

from tests import tiny
from tests.launches.counting import Counting
from tests.launches.device import pretended_device
from tests.launches.device_counts import Count
from tests.launches.passes import ENCODER_SEQUENCES, STREAMS, Decoding, adapters_of, encoder_pass, tasks_of


class OnDevice:
    """A tiny backbone that stands on the pretended device, with one adapter of each method to bind to it.

    `kernels`: that have a `count`, into which they write their launches.
    """

    def __init__(self, folder: Path, kernels: Any = None) -> None:
        self.adapters = adapters_of(tiny.load(folder))
        with pretended_device():
            self.backbone = Backbone.load(str(folder), device="cuda", dtype="float32")
        self._kernels = kernels or Counting()
        self.backbone.kept[SlotTables] = SlotTables(self._kernels)

    @contextmanager
    def _counted(self) -> Iterator[Count]:
        with pretended_device() as count:
            self._kernels.count = count
            yield count

    def encoder(self, name: str, tasks: int = 1, sequences: int = ENCODER_SEQUENCES) -> Count:
        """What a pass costs that is not the first."""
        with self._counted() as count:
            own = tasks_of(self.backbone, self.adapters, name, tasks)
            return _second(encoder_pass(self.backbone, own, sequences), count)

    def decode(
        self, name: str, tasks: int = 1, streams: int = STREAMS, *, sampled: bool = False, warm: int = 1
    ) -> Count:
        """What a step costs that comes after `warm` others."""
        with self._counted() as count:
            own = tasks_of(self.backbone, self.adapters, name, tasks)
            step = Decoding(self.backbone, own, streams, sampled=sampled).step
            for _ in range(warm - 1):
                step()
            return _second(step, count)


def _second(run: Callable[[], object], count: Count) -> Count:
    gc.collect()  # adapters of earlier measurements leave their slots, which the next pass writes down
    run()
    count.reset()
    run()
    return count
