"""Tokens of texts and texts of tokens in TEI's form."""

from __future__ import annotations

from typing import Any

import httpx
from manyhats.api.tei.tokens import TokensOfTexts

from tests.api.live import TEXTS, Live


def post(live: Live, path: str, **body: Any) -> httpx.Response:
    return live.client.post(path, json=body)


def test_tokenize(live: Live) -> None:
    loaded = live.backbone.tokenizer.loaded
    for special in (None, True, False):
        found = post(live, "/tokenize", inputs=TEXTS, add_special_tokens=special).json()
        assert TokensOfTexts.model_validate(found)
        for text, tokens in zip(TEXTS, found, strict=True):
            assert [one["id"] for one in tokens] == loaded.encode(text, add_special_tokens=special is not False)
            words = [text[one["start"] : one["stop"]] for one in tokens if not one["special"]]
            assert words == text.split()
            assert all(one["start"] is None for one in tokens if one["special"])
            assert any(one["special"] for one in tokens) == (special is not False)
    assert post(live, "/tokenize", inputs=TEXTS[0]).json() == post(live, "/tokenize", inputs=TEXTS[:1]).json()


def test_decode(live: Live) -> None:
    loaded = live.backbone.tokenizer.loaded
    ids = [loaded.encode(text) for text in TEXTS]
    assert post(live, "/decode", ids=ids).json() == TEXTS
    assert post(live, "/decode", ids=ids[0]).json() == TEXTS[:1]
    whole = post(live, "/decode", ids=ids[0], skip_special_tokens=False).json()
    assert whole == [live.backbone.tokenizer.decode(ids[0], skip_special=False)]


def test_refused(live: Live) -> None:
    for path, body, status, message in (
        ("/tokenize", {"inputs": ["w1"] * 2049}, 413, "2049"),
        ("/tokenize", {"inputs": "w1 " * 400_000}, 413, "characters"),
        ("/tokenize", {"inputs": 3}, 422, "inputs"),
        ("/tokenize", {"inputs": "w1", "model": "nobody"}, 404, "nobody"),
        ("/tokenize", {"inputs": "w1", "prompt_name": "x"}, 422, "'prompt_name'"),
        ("/decode", {"ids": [-1]}, 422, "-1"),
        ("/decode", {"ids": [[1], [10**9]]}, 422, "1000000000"),
        ("/decode", {}, 422, "ids"),
    ):
        answer = post(live, path, **body)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"error", "error_type"}
        assert message in answer.json()["error"]
