"""Questions to tasks on an encoder, over all routes that answer them."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from manyhats.bench.tasks import read_texts

from soak.questions import Found, Question

# Of the largest value of an answer. A wrong adapter differs by far more, which the references are checked for.
TOLERANCE = {"float32": 5e-4, "bfloat16": 6e-2, "float16": 8e-3}
HEADED = ("classify", "tokens")
Read = Callable[[Any], Any]


class EncoderWork:
    """Texts of different lengths; answers are rows of numbers."""

    def __init__(self, dtype: str, texts: Sequence[str] = ()) -> None:
        self._tolerance = TOLERANCE[dtype]
        sentences = sorted(read_texts(None), key=len)
        step = max(len(sentences) // 6, 1)
        self._texts = list(texts) or sentences[::step][:6]
        self.texts = len(self._texts)

    def alone(self, ref: str, kind: str, text: int) -> Question:
        return self._predict(ref, kind, text, logits=kind in HEADED)

    def reference(self, kind: str, body: Any) -> dict[str, Any]:
        output = body["outputs"][0]
        parts: dict[str, Any] = {what: read(output) for what, read in _PARTS[kind].items()}
        return {what: np.asarray(value, np.float64).ravel() for what, value in parts.items()}

    def ask(self, pick: random.Random, tasks: Sequence[tuple[str, str]]) -> Question:
        (ref, kind), text = tasks[0], pick.randrange(self.texts)
        given = self._texts[text]
        kserve = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [given]}]}
        routes = [
            lambda: self._predict(ref, kind, text, logits=False),
            lambda: self._predict(ref, kind, text, logits=kind in HEADED),
            lambda: self._many(tasks, text),
        ]
        match kind:
            case "classify":
                routes += [
                    lambda: Question("classify", "/classify", {"model": ref, "input": given}, (ref,), text),
                    lambda: Question("kserve scores", f"/v2/models/{ref}/infer", kserve, (ref,), text),
                    lambda: Question("tei", "/predict", {"model": ref, "inputs": given}, (ref,), text),
                ]
            case "embed":
                body = {"model": ref, "input": given}
                coded = body | {"encoding_format": "base64"}
                routes += [
                    lambda: Question("embeddings", "/v1/embeddings", body, (ref,), text),
                    lambda: Question("embeddings base64", "/v1/embeddings", coded, (ref,), text),
                    lambda: Question("kserve embedding", f"/v2/models/{ref}/infer", kserve, (ref,), text),
                ]
            case "regress":
                routes.append(lambda: Question("kserve value", f"/v2/models/{ref}/infer", kserve, (ref,), text))
            case "tokens":
                routes.append(lambda: Question("huggingface", f"/models/{ref}", {"inputs": given}, (ref,), text))
        return pick.choice(routes)()

    def read(self, question: Question, body: Any) -> list[Found]:
        if question.route == "many":
            return [
                self._of_predict(ref, item) if "error" not in item else Found(ref, code=item["error"]["code"])
                for ref, item in zip(question.refs, body["results"], strict=True)
            ]
        if question.route == "predict":
            return [self._of_predict(question.refs[0], body)]
        what, read = _READ[question.route]
        return [Found(question.refs[0], None, what, read(body))]

    def same(self, what: str, value: Any, reference: dict[str, Any]) -> bool:
        found, wanted = np.asarray(value, np.float64).ravel(), reference[what]
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return False
        return bool(np.abs(found - wanted).max(initial=0) <= self._tolerance * max(1.0, np.abs(wanted).max(initial=0)))

    def _predict(self, ref: str, kind: str, text: int, *, logits: bool) -> Question:
        body = {"inputs": self._texts[text]} | ({"parameters": {"logits": True}} if logits else {})
        return Question("predict", f"/v1/tasks/{ref}/predict", body, (ref,), text)

    def _many(self, tasks: Sequence[tuple[str, str]], text: int) -> Question:
        refs = tuple(dict.fromkeys(ref for ref, _ in tasks))
        return Question("many", "/v1/predict", {"tasks": list(refs), "inputs": self._texts[text]}, refs, text)

    def _of_predict(self, ref: str, body: Any) -> Found:
        output, kind = body["outputs"][0], body["kind"]
        what = "logits" if "logits" in output else _WITHOUT_LOGITS[kind]
        return Found(ref, body["sha256"], what, _PARTS[kind][what](output))


def _scores(output: Any) -> list[float]:
    scores = output["scores"]
    return [scores[f"LABEL_{i}"] for i in range(len(scores))]


def _listed(rows: Any) -> list[float]:
    """Labels with scores, the likeliest first."""
    by_label = {row["label"]: row["score"] for row in rows}
    return [by_label[f"LABEL_{i}"] for i in range(len(by_label))]


def _entities(rows: Any) -> list[float]:
    return [n for row in rows for n in (int(row["entity_group"][6:]), row["start"], row["end"], row["score"])]


def _tensor(name: str) -> Read:
    return lambda body: next(tensor["data"] for tensor in body["outputs"] if tensor["name"] == name)


_PARTS: dict[str, dict[str, Read]] = {
    "classify": {"scores": _scores, "logits": lambda output: output["logits"]},
    "embed": {"embedding": lambda output: output["embedding"]},
    "regress": {"value": lambda output: [output["value"]]},
    "tokens": {
        "logits": lambda output: output["logits"],
        "tokens": lambda output: [t["score"] for t in output["tokens"]],
        "entities": lambda output: _entities(output["entities"]),
    },
}
_WITHOUT_LOGITS = {"classify": "scores", "embed": "embedding", "regress": "value", "tokens": "tokens"}
_READ: dict[str, tuple[str, Read]] = {
    "classify": ("scores", lambda body: body["data"][0]["probs"]),
    "kserve scores": ("scores", _tensor("scores")),
    "kserve embedding": ("embedding", _tensor("embedding")),
    "kserve value": ("value", _tensor("value")),
    "tei": ("scores", _listed),
    "huggingface": ("entities", _entities),
    "embeddings": ("embedding", lambda body: body["data"][0]["embedding"]),
    "embeddings base64": (
        "embedding",
        lambda body: np.frombuffer(base64.b64decode(body["data"][0]["embedding"]), "<f4"),
    ),
}
