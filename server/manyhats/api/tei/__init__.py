"""What clients of Hugging Face's Text Embeddings Inference call."""

from __future__ import annotations

from manyhats.api.tei import embed, info, predict, tokens

routers = (embed.router, predict.router, tokens.router, info.router)
