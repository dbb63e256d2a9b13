"""A model's folder that brings code of its own: it never runs, and nobody is asked whether it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from manyhats.backbone import Backbone
from manyhats.errors import ConfigurationError

from tests import tiny

CODE = """
from pathlib import Path

Path(__file__).with_name("ran").touch()


class Own:
    pass
"""


def edit(path: Path, **changes: object) -> None:
    """Sets fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(("kind", "ends"), [("bert", None), ("unheard-of", "cannot be loaded: .*custom code")])
def test_code_in_a_models_folder_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ends: str | None
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody is asked"))
    folder = tiny.write_base("bert", tmp_path / "base")
    (folder / "own.py").write_text(CODE)
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForMaskedLM"), "own.Own")
    edit(folder / "config.json", model_type=kind, auto_map=names)
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", "own.Own"]})
    if ends is None:
        assert Backbone.load(str(folder), device="cpu", dtype="float32").hidden == 32
    else:
        with pytest.raises(ConfigurationError, match=ends):
            Backbone.load(str(folder), device="cpu", dtype="float32")
    assert not list(tmp_path.rglob("ran"))
