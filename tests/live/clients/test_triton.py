"""Tasks by Triton's client, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.api.live import TEXTS, Live, close

http = pytest.importorskip("tritonclient.http", exc_type=(ImportError, RuntimeError))
utils = pytest.importorskip("tritonclient.utils")


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[Any]:
    import tritonclient.http

    with tritonclient.http.InferenceServerClient(url=f"{live.host}:{live.port}") as made:
        yield made


def text_input(name: str, texts: list[str], *, binary: bool) -> Any:
    made = http.InferInput(name, [len(texts)], "BYTES")
    made.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_), binary_data=binary)
    return made


def test_health_and_metadata(live: Live, client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    task = live.add(labels=3)
    assert client.is_model_ready(task)
    assert client.is_model_ready(task, "1")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "manyhats"
    assert client.get_model_metadata(task)["versions"] == ["1"]


@pytest.mark.parametrize("binary", [True, False])
def test_infer(live: Live, client: Any, binary: bool) -> None:
    labels, vectors = live.add(labels=3), live.add(kind="embed")
    expected = live.outputs(labels)
    found = client.infer(labels, [text_input("text", TEXTS, binary=binary)], request_id="mine")
    assert [one.decode() for one in found.as_numpy("label")] == [output["label"] for output in expected]
    assert close(found.as_numpy("scores").tolist(), [list(output["scores"].values()) for output in expected])
    assert found.get_response()["id"] == "mine"
    wanted = [http.InferRequestedOutput("embedding", binary_data=binary)]
    found = client.infer(vectors, [text_input("text", TEXTS, binary=binary)], model_version="1", outputs=wanted)
    assert found.as_numpy("embedding").dtype == np.float32
    assert close(found.as_numpy("embedding").tolist(), [output["embedding"] for output in live.outputs(vectors)])
    given = {"normalize": True}
    found = client.infer(vectors, [text_input("text", TEXTS, binary=binary)], parameters=given)
    unit = [output["embedding"] for output in live.outputs(vectors, normalize=True)]
    assert close(found.as_numpy("embedding").tolist(), unit)


def test_pairs(live: Live, client: Any) -> None:
    task, others = live.add(kind="rerank", labels=1), TEXTS[::-1]
    inputs = [text_input("text", TEXTS, binary=True), text_input("text_pair", others, binary=True)]
    pairs = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, others, strict=True)]
    expected = [output["score"] for output in live.outputs(task, pairs)]
    assert close(client.infer(task, inputs).as_numpy("score").tolist(), expected)


def test_errors(live: Live, client: Any) -> None:
    with pytest.raises(utils.InferenceServerException, match="The model `nobody` does not exist"):
        client.infer("nobody", [text_input("text", TEXTS, binary=True)])
    wrong = http.InferInput("text", [1], "FP32")
    wrong.set_data_from_numpy(np.zeros(1, np.float32))
    with pytest.raises(utils.InferenceServerException, match="texts are BYTES"):
        client.infer("base", [wrong])
