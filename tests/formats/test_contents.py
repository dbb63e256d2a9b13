"""What becomes of a folder's files, by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhats.errors import InvalidRequest, UnsupportedFormat
from manyhats.formats.contents import leave_out, names_of, select

PEFT = ["adapter_config.json", "adapter_model.safetensors"]
TRAINERS = [
    "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth",
    "rng_state_0.pth", "random_states_0.pkl", "trainer_state.json", "trainer_log.jsonl", "training_args.yaml",
    "training_loss.png", "all_results.json", "events.out.tfevents.1", "latest", "zero_to_fp32.py",
    "optimizer.safetensors", "checkpoint-10/adapter_model.safetensors", "checkpoint-10/adapter_config.json",
    "checkpoint-10/adapter_model.bin", "checkpoint-10/optimizer.pt", "global_step20/zero_pp_rank_0_model_states.pt",
    "epoch_1/adapter_model.safetensors", "runs/Jan01/events.out.tfevents.1", "logs/x.log",
    "pytorch_model_fsdp_0/__0_0.distcp",
]  # fmt: skip
OTHERS = [
    "LICENSE", "LICENSE.txt", "axolotl_config.yml", "figure.jpg", "images/plot.png", "handler.py", "requirements.txt",
    "model.onnx", "extra.bin", "pytorch_model.bin", "sub/x.pkl", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "adapter_model.bin", ".gitattributes", ".git/HEAD",
    ".DS_Store", "__MACOSX/x", "__pycache__/handler.pyc",
]  # fmt: skip
READ = [
    "README.md", "manyhats.json", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "additional_chat_templates/tools.jinja",
    "generation_config.json", "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
    "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "head_config.json",
    "model_head.safetensors", "adapter_model.safetensors.index.json", "adapter_model-00001-of-00002.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", [*TRAINERS, *OTHERS])
def test_what_is_not_an_adapters_is_left_out_and_said(name: str) -> None:
    contents = select([*PEFT, name])
    contents.check()
    assert (contents.root, contents.kept) == ("", tuple(PEFT))
    assert list(contents.left_out) == [name]
    (warning,) = contents.warnings()
    assert name.split("/")[0] in warning


@pytest.mark.parametrize("name", [*READ, "strange.safetensors", "other/adapter_model.safetensors"])
def test_what_is_read_is_kept_and_so_are_weights_that_nothing_speaks_of(name: str) -> None:
    contents = select([*PEFT, name])
    assert set(contents.kept) == {*PEFT, name}
    assert (contents.left_out, contents.refused, contents.warnings()) == ({}, {}, ())


@pytest.mark.parametrize(
    "names",
    [
        ["adapter_config.json", "adapter_model.bin"],
        ["adapter_config.json", "pytorch_adapter.bin"],
        ["adapter_config.json", "adapter.safetensors", "head_config.json", "pytorch_model_head.bin"],
        ["adapter_setup.json", "one/adapter_config.json", "one/pytorch_adapter.bin"],
        ["a/adapter_config.json", "a/adapter.safetensors", "f/adapter_fusion_config.json",
         "f/pytorch_model_adapter_fusion.bin"],
        ["adapter_config.json", "x.pt"],
        ["adapter_config.json", "weights.CKPT"],
        ["manyhats.json", "weights.pkl"],
        [*PEFT, "non_lora_trainables.bin"],
        [*PEFT, "modules.json", "2_Dense/config.json", "2_Dense/pytorch_model.bin"],
        [*PEFT, "sub/pytorch_adapter.bin"],
    ],
)  # fmt: skip
def test_a_pickle_is_refused_where_it_would_be_the_weights(names: list[str]) -> None:
    contents = select([*names, "training_args.bin", "optimizer.pt"])
    assert set(contents.left_out) == {"training_args.bin", "optimizer.pt"}
    assert list(contents.refused) == [names[-1]]
    with pytest.raises(UnsupportedFormat, match="manyhats convert PATH OUT") as caught:
        contents.check()
    assert caught.value.param == names[-1]


def test_sharded_weights_make_the_pickle_a_copy() -> None:
    names = ["adapter_config.json", "adapter_model-00001-of-00001.safetensors", "adapter_model.bin"]
    assert set(select(names).left_out) == {"adapter_model.bin"}


@pytest.mark.parametrize(
    ("names", "root", "left_out"),
    [
        (["checkpoint-10/adapter_config.json", "checkpoint-10/adapter_model.safetensors"], "checkpoint-10", []),
        (["out/a/adapter_config.json", "out/a/optimizer.pt", "x.md"], "out/a", ["out/a/optimizer.pt", "x.md"]),
        (["final/manyhats.json", "checkpoint-1/manyhats.json"], "final", ["checkpoint-1/manyhats.json"]),
        (["one/adapter_config.json", "one/adapter.safetensors", "training_args.bin"], "one", ["training_args.bin"]),
        (["top/adapter_setup.json", "top/one/adapter_config.json"], "top", []),
        (["top/one/adapter_config.json", "top/f/adapter_fusion_config.json"], "top", []),
        (["one/adapter_config.json", "f/adapter_fusion_config.json", "runs/x"], "", ["runs/x"]),
        (["adapter_setup.json", "step1/adapter_config.json", "step1/head_config.json", "x.yaml"], "", ["x.yaml"]),
        (["adapter_setup.json", "manyhats.json", "one/adapter_config.json"], "", []),
        (["x.txt", "__MACOSX/a/adapter_config.json"], "", ["__MACOSX/a/adapter_config.json", "x.txt"]),
    ],
)  # fmt: skip
def test_the_adapter_is_found_in_a_folder_inside(names: list[str], root: str, left_out: list[str]) -> None:
    contents = select(names)
    contents.check()
    assert (contents.root, sorted(contents.left_out)) == (root, left_out)
    assert all(not contents.place(name).startswith(root) or not root for name in contents.kept)


@pytest.mark.parametrize("names", [("checkpoint-1", "checkpoint-2"), ("best", "last")])
def test_several_adapters_are_not_chosen_from(names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest, match=rf"2 adapters \({', '.join(names)}\).*send one"):
        select([*(f"{name}/adapter_config.json" for name in names), "README.md"]).check()


def test_the_warning_is_short_whatever_is_left_out() -> None:
    contents = select(
        [*PEFT, *(f"{i}-{'x' * 200}.txt" for i in range(1000)), *(f"checkpoint-{i}/x" for i in range(1000))]
    )
    (warning,) = contents.warnings()
    assert len(warning) < 2000
    assert "and 992 more" in warning


def test_a_folder_is_left_with_what_is_kept(tmp_path: Path) -> None:
    for name in (*PEFT, "optimizer.pt", "runs/a/b", "1_Pooling/config.json", "checkpoint-1/checkpoint-1/x.bin"):
        (tmp_path / "checkpoint-1" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoint-1" / name).write_text(name)
    (tmp_path / "README.md").write_text("")
    (warning,) = leave_out(tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == {
        *PEFT,
        "1_Pooling/config.json",
    }
    assert not any(path.name in ("checkpoint-1", "runs") for path in tmp_path.rglob("*"))
    assert "README.md" in warning


def test_the_names_of_all_files_are_found_and_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    for name in ("a", "b/c", "b/d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "round").symlink_to(tmp_path)
    (tmp_path / "b" / "nowhere").symlink_to("gone")
    (tmp_path / "empty").mkdir()
    assert sorted(names_of(tmp_path)) == ["a", "b/c", "b/d/e"]


def test_whether_a_kept_file_is_among_some() -> None:
    contents = select(["out/adapter_config.json", "out/adapter_model.safetensors", "out/1_Pooling/config.json"])
    assert contents.root == "out"
    assert contents.has(["adapter_config.json"])
    assert contents.has(["*/*_Pooling/*", "[0-9]*_*/config.json"])
    assert not contents.has(["config.json", "*.json5", "out/adapter_config.json", "adapter_conf"])
