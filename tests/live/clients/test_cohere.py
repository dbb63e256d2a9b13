"""Rankings by Cohere's client."""

from __future__ import annotations

import httpx
import pytest

from tests.api.live import TEXTS, Live, close

pytest.importorskip("cohere")


def test_rerank(live: Live) -> None:
    import cohere

    task = live.add(kind="rerank", labels=1)
    pairs = [{"text": "w1 w2", "text_pair": text} for text in TEXTS]
    scores = [output["score"] for output in live.outputs(task, pairs)]
    order = sorted(range(3), key=lambda i: -scores[i])
    for made in (cohere.Client, cohere.ClientV2):
        with httpx.Client() as connections:
            client = made(base_url=f"http://{live.host}:{live.port}", api_key="none", httpx_client=connections)
            found = client.rerank(model=task, query="w1 w2", documents=TEXTS, top_n=2)
        assert [one.index for one in found.results] == order[:2]
        assert close([one.relevance_score for one in found.results], [scores[i] for i in order[:2]])
