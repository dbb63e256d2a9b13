"""`manyhats convert`: pickles to safetensors, and nothing of them is run."""

from __future__ import annotations

import io
import json
import pickle
import random
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from manyhats.commands.convert import convert, convert_folder
from manyhats.errors import InvalidRequest
from manyhats.formats.contents import PICKLED, names_of, select
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An adapter folder without weights."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("pickled", "converted"), [*PICKLED.items(), ("x.pt", "x.safetensors"), ("x.PTH", "x.safetensors")]
)
def test_tensors_and_other_files_come_along(source: Path, tmp_path: Path, pickled: str, converted: str | None) -> None:
    converted = converted or pickled.replace(".bin", ".safetensors")
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}, source / pickled)
    assert convert_folder(source, tmp_path / "out") == (1, ())
    assert written(tmp_path / "out") == {"adapter_config.json", converted}
    tensors = load_file(tmp_path / "out" / converted)
    assert tensors["a"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert tensors["half"].dtype == torch.bfloat16
    select(names_of(tmp_path / "out")).check()


def test_folders_in_folders_stay_so(source: Path, tmp_path: Path) -> None:
    for part in ("one", "two"):
        (source / part).mkdir()
        torch.save({part: torch.ones(1)}, source / part / "pytorch_adapter.bin")
    assert convert_folder(source, tmp_path / "deep" / "out") == (2, ())
    assert written(tmp_path / "deep" / "out") == {
        "adapter_config.json",
        "one/adapter.safetensors",
        "two/adapter.safetensors",
    }


def test_shared_memory_parameters_and_views_are_written_out(source: Path, tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = OrderedDict(a=shared, b=shared, c=shared.T, d=shared[:, :1], e=torch.nn.Parameter(shared[0]))
    torch.save(state, source / "adapter_model.bin")
    convert_folder(source, tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {n: t.tolist() for n, t in state.items()}


class Harm:
    """What touches a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.proof), "w")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_that_would_run_code_does_not(source: Path, tmp_path: Path, zipped: bool, wrapped: bool) -> None:
    proof = tmp_path / "proof"
    harm = {"a": torch.ones(1), "harm": Harm(proof)} if wrapped else Harm(proof)
    torch.save(harm, source / "adapter_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidRequest, match="holds more than tensors"):
        convert_folder(source, tmp_path / "out")
    assert not proof.exists()
    assert not (tmp_path / "out").exists()


def test_a_plain_pickle_that_would_run_code_does_not(source: Path, tmp_path: Path) -> None:
    (source / "adapter_model.bin").write_bytes(pickle.dumps(Harm(tmp_path / "proof"), protocol=2))
    with pytest.raises(InvalidRequest, match="holds more than tensors"):
        convert_folder(source, tmp_path / "out")
    assert not (tmp_path / "proof").exists()


# What torch 2.11 and 2.14 say while they read a sparse tensor.
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning", "ignore:Validating sparse tensor:UserWarning")
@pytest.mark.parametrize(
    "state",
    [
        [torch.ones(2)],
        {"a": {"b": torch.ones(2)}},
        {"a": "text"},
        {1: torch.ones(2)},
        {"a": torch.eye(2).to_sparse()},
        {"a": torch.empty(2, device="meta")},
    ],
)
def test_what_is_no_mapping_of_plain_tensors_is_refused(source: Path, tmp_path: Path, state: Any) -> None:
    torch.save(state, source / "adapter_model.bin")
    with pytest.raises(InvalidRequest, match=r"adapter_model\.bin.*plain mapping"):
        convert_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x80\x02."])
def test_what_is_no_pickle_of_torch_is_refused(source: Path, tmp_path: Path, content: bytes) -> None:
    (source / "adapter_model.bin").write_bytes(content)
    with pytest.raises(InvalidRequest, match=r"'adapter_model\.bin'") as caught:
        convert_folder(source, tmp_path / "out")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_pickles_give_errors_of_ours_alone(source: Path, tmp_path: Path, zipped: bool) -> None:
    chance = random.Random(3)
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(50)}, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    messages = []
    for number in range(120):
        damaged = bytearray(whole)
        if number % 3:
            for _ in range(3):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        else:
            del damaged[chance.randrange(len(damaged)) :]
        (source / "adapter_model.bin").write_bytes(damaged)
        try:
            convert_folder(source, tmp_path / f"out-{number}")
        except InvalidRequest as error:
            messages.append(error.message)
    assert len(messages) >= 40
    assert not any("\n" in message for message in messages)


def test_two_files_of_one_name_are_refused(source: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, source / "x.bin")
    torch.save({"a": torch.ones(1)}, source / "x.pt")
    with pytest.raises(InvalidRequest, match=r"x\.bin.*x\.pt.*both"):
        convert_folder(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_trainer_left_stays_behind_and_is_not_opened(source: Path, tmp_path: Path) -> None:
    """A copy of weights that are safetensors too is left behind as well."""
    torch.save({"a": torch.ones(1)}, source / "pytorch_model_head.bin")
    (source / "checkpoint-2").mkdir()
    for name in ("training_args.bin", "optimizer.pt", "checkpoint-2/adapter_model.bin", "adapter_model.bin"):
        (source / name).write_bytes(b"cannot be read")
    (source / "adapter_model.safetensors").write_bytes(b"kept as it is")
    written_files, (warning,) = convert_folder(source, tmp_path / "out")
    assert written_files == 1
    assert written(tmp_path / "out") == {"adapter_config.json", "adapter_model.safetensors", "model_head.safetensors"}
    for name in ("training_args.bin", "optimizer.pt", "checkpoint-2", "adapter_model.bin"):
        assert name in warning


def test_a_folder_without_pickled_weights_is_copied(source: Path, tmp_path: Path) -> None:
    (source / "checkpoint-2").mkdir()
    (source / "adapter_config.json").rename(source / "checkpoint-2" / "adapter_config.json")
    (source / "checkpoint-2" / "adapter_model.safetensors").write_bytes(b"")
    (source / "checkpoint-2" / "training_args.bin").write_bytes(b"")
    written_files, (warning,) = convert_folder(source, tmp_path / "out")
    assert written_files == 0
    assert "checkpoint-2/" in warning
    assert written(tmp_path / "out") == {"adapter_config.json", "adapter_model.safetensors"}


def test_the_target_must_be_empty_and_the_source_hold_pickles(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no pickle file"):
        convert_folder(source, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="is no folder"):
        convert_folder(tmp_path / "nowhere", tmp_path / "out")
    torch.save({"a": torch.ones(1)}, source / "adapter_model.bin")
    before = {name: (source / name).read_bytes() for name in written(source)}
    with pytest.raises(InvalidRequest, match="not empty"):
        convert_folder(source, source)
    with pytest.raises(InvalidRequest, match="is no folder"):
        convert_folder(source, source / "adapter_config.json")
    with pytest.raises(InvalidRequest, match="cannot be written"):
        convert_folder(source, source / "adapter_config.json" / "out")
    assert {name: (source / name).read_bytes() for name in written(source)} == before
    (tmp_path / "out").mkdir()
    assert convert_folder(source, tmp_path / "out") == (1, ())


def test_the_command_says_what_it_wrote(source: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(convert)
    torch.save({"a": torch.ones(1)}, source / "adapter_model.bin")
    result = CliRunner().invoke(app, [str(source), str(tmp_path / "out")])
    assert result.exit_code == 0
    assert result.output == f"{tmp_path / 'out'}: 1 weight files as safetensors\n"
    result = CliRunner().invoke(app, [str(source), str(tmp_path / "other"), "--json"])
    assert json.loads(result.output) == {"path": str(tmp_path / "other"), "weight_files": 1, "warnings": []}
