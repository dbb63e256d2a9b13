"""`manyhats predict`."""

from __future__ import annotations

import json

from tests.commands.asking import Server, run

ANSWER = {
    "id": "pred-1",
    "task": "spam",
    "version": 1,
    "sha256": "ab",
    "kind": "classify",
    "outputs": [
        {"label": "ham", "score": 0.5, "scores": {"ham": 0.5, "spam": 0.5}},
        {"label": "spam", "score": 1.0, "scores": {"ham": 0.0, "spam": 1.0}},
    ],
}


def test_the_outputs_or_the_whole_answer_are_printed(server: Server) -> None:
    server.answers(ANSWER)
    assert json.loads(run("predict", "spam", "one", "two")[0]) == ANSWER["outputs"]
    assert json.loads(server.requests[0].content) == {"inputs": ["one", "two"]}
    assert json.loads(run("predict", "spam", "one", "two", "--json")[0]) == ANSWER
