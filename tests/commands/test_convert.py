"""`manyhats convert`: pickles to safetensors, and nothing of them is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from manyhats.commands.convert import convert_folder
from manyhats.errors import InvalidRequest
from safetensors.torch import load_file


@pytest.mark.parametrize(
    ("pickled", "converted"),
    [
        ("adapter_model.bin", "adapter_model"),
        ("pytorch_adapter.bin", "adapter"),
        ("pytorch_model_head.bin", "model_head"),
    ],
)
def test_tensors_and_other_files_come_along(tmp_path: Path, pickled: str, converted: str) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shared = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": shared, "b": shared, "c": shared.T}, source / pickled)
    (source / "adapter_config.json").write_text("{}")
    assert convert_folder(source, out) == 1
    tensors = load_file(out / f"{converted}.safetensors")
    assert torch.equal(tensors["a"], shared)
    assert torch.equal(tensors["c"], shared.T)
    assert {p.name for p in out.iterdir()} == {"adapter_config.json", f"{converted}.safetensors"}


class _Harm:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.proof,))  # type: ignore[return-value]


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    source, proof = tmp_path / "in", tmp_path / "proof"
    source.mkdir()
    (source / "adapter_model.bin").write_bytes(pickle.dumps(_Harm(proof), protocol=2))
    with pytest.raises(InvalidRequest, match="holds more than tensors"):
        convert_folder(source, tmp_path / "out")
    assert not proof.exists()


def test_the_target_must_be_empty_and_the_source_hold_pickles(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x.json").write_text("{}")
    with pytest.raises(InvalidRequest, match="not empty"):
        convert_folder(tmp_path, tmp_path / "full")
    with pytest.raises(InvalidRequest, match="no pickle file"):
        convert_folder(tmp_path / "full", tmp_path / "out")
