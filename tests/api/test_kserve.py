"""KServe's open inference protocol, in JSON and with tensors as bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
from manyhats.api.kserve.infer import Inferred
from manyhats.api.kserve.models import ModelMetadata

from tests.api.live import TEXTS, Live, close

PAIRS = ["w3 w4", "w5 w6 w7", "w8"]


@pytest.fixture(scope="module")
def labels(live: Live) -> str:
    task = live.add("labels", labels=3)
    assert live.client.put(f"/v1/tasks/{task}", json={"labels": ["a", "b", "c"]}).status_code == 200
    return task


def tensor(name: str = "text", data: Any = TEXTS, **fields: Any) -> dict[str, Any]:
    return {"name": name, "shape": [len(data)], "datatype": "BYTES", "data": data} | fields


def infer(live: Live, task: str, *inputs: dict[str, Any], path: str = "", **body: Any) -> httpx.Response:
    given = {"inputs": list(inputs) or [tensor()]} | body
    return live.client.post(f"/v2/models/{task}{path}/infer", json=given)


def outputs(answer: httpx.Response) -> dict[str, dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert Inferred.model_validate(body)
    return {one["name"]: one for one in body["outputs"]}


def array(output: dict[str, Any]) -> Any:
    return np.array(output["data"]).reshape(output["shape"]).tolist()


def refused(answer: httpx.Response, status: int, message: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def as_bytes(*texts: str) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def test_health(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.client.get("/v2/health/live").json() == {"live": True}
    answer = live.client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"ready": True})
    monkeypatch.setattr(live.runtime, "state", "draining")
    answer = live.client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False})
    assert live.client.get("/v2/health/live").status_code == 200


def test_metadata(live: Live, labels: str) -> None:
    assert live.client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in (f"/v2/models/{labels}", f"/v2/models/{labels}/versions/1"):
        found = ModelMetadata.model_validate(live.client.get(path).json())
        assert (found.name, found.versions, found.platform) == (labels, ["1"], "manyhats_classify")
        assert [one.name for one in found.outputs] == ["label", "score", "scores"]
    assert live.client.get("/v2/models/base").json()["versions"] == []
    for path in (f"/v2/models/{labels}/ready", f"/v2/models/{labels}/versions/1/ready"):
        assert live.client.get(path).json() == {"name": labels, "ready": True}
    for path in ("/v2/models/nobody", "/v2/models/nobody/ready", f"/v2/models/{labels}/versions/9/ready"):
        refused(live.client.get(path), 404, "not exist" if "nobody" in path else "9")
    refused(live.client.get(f"/v2/models/{labels}/versions/x"), 400, "'x' is no version")


@pytest.mark.parametrize(
    ("kind", "count", "pair"),
    [("classify", 3, False), ("classify", 2, True), ("tokens", 3, False), ("regress", 1, False), ("rerank", 1, True),
     ("span", 2, True), ("embed", 0, False)],
)  # fmt: skip
def test_every_kind_answers_as_its_metadata_say(live: Live, kind: Any, count: int, pair: bool) -> None:
    task = live.add(kind=kind, labels=count)
    inputs = [{"text": one, "text_pair": other} for one, other in zip(TEXTS, PAIRS, strict=True)] if pair else TEXTS
    expected = live.outputs(task, inputs)
    given = [tensor(), tensor("text_pair", PAIRS)] if pair else [tensor()]
    found = outputs(infer(live, task, *given))
    described = live.client.get(f"/v2/models/{task}").json()["outputs"]
    assert [one["name"] for one in described] == list(found)
    for one in described:
        own, shown = found[one["name"]], [output[one["name"]] for output in expected]
        assert own["datatype"] == one["datatype"]
        assert len(own["shape"]) == len(one["shape"])
        if one["name"] == "scores":
            assert own["parameters"]["labels"].split(",") == list(shown[0])
            assert close(array(own), [list(scores.values()) for scores in shown])
        elif one["datatype"] == "BYTES" and not isinstance(shown[0], str):
            assert close([json.loads(text) for text in own["data"]], shown)
        else:
            assert close(array(own), shown)
    by_version = outputs(infer(live, task, *given, path="/versions/1"))
    assert close([one["shape"] for one in by_version.values()], [one["shape"] for one in found.values()])


def test_parameters_and_wanted_outputs(live: Live, labels: str) -> None:
    answer = infer(
        live, labels, id="mine", outputs=[{"name": "logits"}, {"name": "label"}], parameters={"logits": True}
    )
    body = answer.json()
    assert (body["id"], body["model_name"], body["model_version"]) == ("mine", labels, "1")
    found = outputs(answer)
    assert list(found) == ["logits", "label"]
    assert close(array(found["logits"]), [output["logits"] for output in live.outputs(labels, logits=True)])
    for name in ("base", live.backbone.name.replace("/", "%2F")):
        if "%2F" not in name:
            vectors = outputs(infer(live, name, parameters={"normalize": True}))["embedding"]
            assert close(array(vectors), [one["embedding"] for one in live.outputs("base", normalize=True)])
    each = outputs(infer(live, "base", parameters={"pooling": "none"}))["embedding"]
    assert each["datatype"] == "BYTES"  # texts of several lengths
    refused(infer(live, labels, outputs=[{"name": "nothing"}]), 400, "there is no output 'nothing'; there are label")
    refused(infer(live, labels, parameters={"nothing": 1}), 400, "no parameter 'nothing'")
    refused(
        infer(live, labels, outputs=[{"name": "label", "parameters": {"classification": 2}}]), 400, "classification"
    )


def test_tensors_as_bytes(live: Live, labels: str) -> None:
    plain = outputs(infer(live, labels))
    data = as_bytes(*TEXTS)
    given = {"name": "text", "shape": [3, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
    for content_type in ({}, {"Content-Type": "application/octet-stream"}):
        for wanted, binary in (
            ({"parameters": {"binary_data_output": True}}, set(plain)),
            ({"outputs": [{"name": "score", "parameters": {"binary_data": True}}, {"name": "label"}]}, {"score"}),
        ):
            head = json.dumps({"inputs": [given]} | wanted).encode()
            headers = {"Inference-Header-Content-Length": str(len(head))} | content_type
            answer = live.client.post(f"/v2/models/{labels}/infer", content=head + data, headers=headers)
            assert answer.status_code == 200, answer.text
            size = int(answer.headers["inference-header-content-length"])
            body, tail = json.loads(answer.content[:size]), answer.content[size:]
            assert Inferred.model_validate(body)
            for one in body["outputs"]:
                expected = plain[one["name"]]
                if one["name"] not in binary:
                    assert close(one["data"], expected["data"])
                    continue
                part, tail = (
                    tail[: one["parameters"]["binary_data_size"]],
                    tail[one["parameters"]["binary_data_size"] :],
                )
                if one["datatype"] == "BYTES":
                    assert part == as_bytes(*expected["data"])
                else:
                    assert close(np.frombuffer(part, "<f4").tolist(), expected["data"])
            assert not tail
    octets = {"Content-Type": "application/octet-stream"}
    assert live.client.post(f"/v2/models/{labels}/infer", content=b"{}", headers=octets).status_code == 415


@pytest.mark.parametrize(
    ("size", "data", "length", "message"),
    [
        (4, b"\x00\x00\x00", None, "has 4 bytes, but the body ends before"),
        (3, b"\x00\x00\x00", None, "ends within a length"),
        (5, b"\xff\xff\xff\xffx", None, "ends within a text"),
        (5, b"\x01\x00\x00\x00\xff", None, "not UTF-8"),
        (5, b"\x01\x00\x00\x00ab", None, "1 bytes at the body's end"),
        (-1, b"", None, "binary_data_size"),
        (True, b"", None, "binary_data_size"),
        (0, b"", None, "has 0 texts, but its shape says 1"),
        (5, b"\x01\x00\x00\x00a", "x", "Inference-Header-Content-Length"),
        (5, b"\x01\x00\x00\x00a", "99999", "Inference-Header-Content-Length"),
    ],
)
def test_damaged_bytes(live: Live, size: Any, data: bytes, length: str | None, message: str) -> None:
    given = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [given]}).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(head))}
    refused(live.client.post("/v2/models/base/infer", content=head + data, headers=headers), 400, message)


@pytest.mark.parametrize(
    ("inputs", "status", "message"),
    [
        ([], 400, "0 tensors of texts"),
        ([tensor("a"), tensor("b")], 400, "2 tensors of texts"),
        ([tensor(), tensor()], 400, "twice"),
        ([tensor("text_pair")], 400, "0 tensors of texts"),
        ([tensor(), tensor("text_pair", ["w1"])], 400, "3 texts and 1 of 'text_pair'"),
        ([tensor(datatype="FP32", data=[1.0, 2.0, 3.0])], 400, "texts are BYTES"),
        ([tensor(data=[1, 2, 3])], 400, "an element that is no text"),
        ([tensor(shape=[2])], 400, "has 3 texts, but its shape says 2"),
        ([tensor(shape=[-1])], 400, "has no shape"),
        ([tensor(shape=[1] * 9)], 400, "has no shape"),
        ([tensor(data=[])], 400, "no input"),
        ([tensor(data=["w1", " "])], 400, "input 1 is empty"),
        ([tensor(data=["w1"] * 2049)], 413, "2049 inputs"),
        ([tensor(data=["w1 " * 500])], 400, "tokens"),
    ],
)
def test_wrong_inputs(live: Live, inputs: list[dict[str, Any]], status: int, message: str) -> None:
    refused(live.client.post("/v2/models/base/infer", json={"inputs": inputs}), status, message)
    live.wait_idle()


def test_shapes_of_several_dimensions(live: Live) -> None:
    expected = [one["embedding"] for one in live.outputs("base")]
    for shape, data in (([3, 1], TEXTS), ([1, 3], [TEXTS]), ([3, 1], [[text] for text in TEXTS])):
        found = outputs(infer(live, "base", tensor(shape=shape, data=data)))["embedding"]
        assert close(array(found), expected)


def test_a_key_is_needed(start) -> None:
    with start(api_keys="secret") as live:
        assert live.client.get("/v2/health/live").status_code == 200
        assert live.client.get("/v2/health/ready").status_code == 200
        for path in ("/v2", "/v2/models/base", "/v2/models/base/ready"):
            refused(live.client.get(path), 401, "a key is needed")
        refused(infer(live, "base"), 401, "a key is needed")
