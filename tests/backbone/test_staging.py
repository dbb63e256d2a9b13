"""What a pass needs goes to the device in one copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from manyhats.backbone import Backbone, SequenceChunk, StagingBuffer, pack_chunks
from manyhats.backbone.staging import FixedStagingBuffer, HostBuffers

CPU = torch.device("cpu")


def test_arrays_come_back_in_their_shape_and_type() -> None:
    buffers = HostBuffers(torch.device("cpu"))
    for _ in range(5):  # more than there are page-locked buffers
        staging = StagingBuffer(buffers)
        given = {
            "words": np.arange(6).reshape(2, 3),
            "list": [3, 1, 2],
            "nothing": np.empty((0, 2), dtype=np.int64),
            "small": np.array([7, -8, 9], dtype=np.int32),
            "flags": np.array([True, False, True]),
            "turned": np.arange(6).reshape(2, 3).T,
            "real": np.array([0.5, -1.25, 3], dtype=np.float32),
        }
        for name, array in given.items():
            staging.put(name, array)
        staging.commit()
        for name, array in given.items():
            expected = torch.from_numpy(np.ascontiguousarray(array))
            assert staging[name].dtype == expected.dtype, name
            assert torch.equal(staging[name], expected), name
            assert np.array_equal(staging.host(name), array)


def test_it_is_put_then_committed_then_read() -> None:
    staging = StagingBuffer(HostBuffers(torch.device("cpu")))
    staging.put("a", [1])
    with pytest.raises(ValueError, match="'a' is in the buffer already"):
        staging.put("a", [2])
    with pytest.raises(ValueError, match="'a' is not on the device yet"):
        staging["a"]
    staging.commit()
    with pytest.raises(ValueError, match="'b' comes too late"):
        staging.put("b", [2])
    with pytest.raises(ValueError, match="already"):
        staging.commit()
    with pytest.raises(KeyError):
        staging["b"]


def test_a_type_that_no_device_reads_is_refused() -> None:
    staging = StagingBuffer(HostBuffers(torch.device("cpu")))
    with pytest.raises(ValueError, match="'a' has the type complex128"):
        staging.put("a", [1j])


@torch.inference_mode()
def test_callers_put_more_into_a_pass(bert: Backbone) -> None:
    staging = bert.staging()
    batch = pack_chunks(bert, None, [SequenceChunk([2, 7, 3]), SequenceChunk([2, 3])], staging)
    staging.put("rows", [batch.starts[1]])
    staging.commit()
    states = bert.encode(batch)
    alone = bert.encode(pack_chunks(bert, None, [SequenceChunk([2, 3])]))
    torch.testing.assert_close(states.index_select(0, staging["rows"]), alone[:1], atol=1e-5, rtol=1e-5)


def fixed_buffer(words: int = 40) -> FixedStagingBuffer:
    return FixedStagingBuffer(HostBuffers(CPU), torch.full((words,), -1), "rows")


def put(staging: FixedStagingBuffer, rows: int, *, ids: int = 3) -> bool:
    """A pass's arrays, of which one grows; whether they are those of the first."""
    staging.begin()
    staging.put("rows", np.arange(rows))
    staging.put("ids", np.full(ids, rows))
    staging.put("tiles", np.full((2, 3), rows, dtype=np.int32))
    return staging.seal()


def test_arrays_of_later_passes_lie_where_those_of_the_first_did() -> None:
    staging = fixed_buffer()
    assert put(staging, 5)
    staging.commit()
    ids, tiles, rows = (staging[name] for name in ("ids", "tiles", "rows"))
    assert put(staging, 9)
    staging.put("more", [7, 8])
    staging.commit()
    assert ids.tolist() == [9] * 3
    assert tiles.tolist() == [[9] * 3] * 2
    assert rows[:9].tolist() == list(range(9))
    assert staging["more"].tolist() == [7, 8]
    assert put(staging, 2)
    staging.commit()
    with pytest.raises(KeyError):
        staging["more"]


def test_other_arrays_than_the_first_pass_had_are_said() -> None:
    staging = fixed_buffer()
    assert put(staging, 5)
    assert not put(staging, 5, ids=4)
    assert put(staging, 6)


def test_arrays_that_do_not_fit_are_said_before_they_are_copied() -> None:
    staging = fixed_buffer(20)
    assert put(staging, 5)
    staging.commit()
    assert not put(staging, 15)
    with pytest.raises(ValueError, match="21 words do not fit into 20"):
        staging.commit()
    assert put(staging, 14)
    staging.put("more", [1])
    assert not staging.fits


@pytest.mark.gpu
def test_page_locked_buffers_are_not_overwritten_under_a_copy() -> None:
    device = torch.device("cuda")
    buffers = HostBuffers(device)
    kept: list[Any] = []
    torch.cuda._sleep(50_000_000)  # copies wait behind it
    for i in range(8):
        staging = StagingBuffer(buffers)
        staging.put("a", np.full(1000 + 100 * i, i))
        staging.commit()
        kept.append(staging["a"])
    assert [int(one.min()) for one in kept] == [int(one.max()) for one in kept] == list(range(8))
