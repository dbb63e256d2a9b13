"""Masks by Hugging Face's `InferenceClient`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests import tiny
from tests.api.live import Live, close, serving
from tests.references.peft import References


@pytest.fixture(scope="module")
def folder(peft_references: References) -> Path:
    return peft_references.base("bert-masked")


@pytest.fixture(scope="module")
def live(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with serving(tiny.load(folder), tmp_path_factory.mktemp("store")) as running:
        yield running


def test_fill_mask(live: Live) -> None:
    client = InferenceClient(model=f"http://{live.host}:{live.port}/models/base/pipeline/fill-mask", token="none")
    text = "w1 [MASK] w3"
    (output,) = live.outputs("base", text, kind="fill", top_k=3)
    found = client.fill_mask(text, top_k=3)
    assert close(
        [(one.token, one.token_str, one.score) for one in found],
        [(fill["token"], fill["text"], fill["score"]) for fill in output["masks"][0]["fills"]],
    )
    assert found[0].sequence == f"w1 {found[0].token_str} w3"
    several = live.client.post("/models/base/pipeline/fill-mask", json={"inputs": ["w1 [MASK] [MASK]", text]}).json()
    assert [len(several[0]), len(several[0][0]), len(several[1])] == [2, 5, 5]
    with pytest.raises(HfHubHTTPError, match="422"):
        client.fill_mask(text, targets=["w1"])
