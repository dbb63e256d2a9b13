"""What vLLM's clients call beside OpenAI's routes: labels, pooled outputs, scores, tokens, and loading by path."""

from __future__ import annotations

from manyhats.api.vllm import adapters, classify, pooling, rerank, score, tokens

routers = (classify.router, pooling.router, score.router, rerank.router, tokens.router, adapters.router)
