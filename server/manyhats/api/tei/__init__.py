"""What clients of Hugging Face's Text Embeddings Inference call."""

from __future__ import annotations

from manyhats.api.tei import embed, info, predict

routers = (embed.router, predict.router, info.router)
