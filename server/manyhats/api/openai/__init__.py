"""What OpenAI's clients call: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/v1/embeddings`."""

from __future__ import annotations

from manyhats.api.openai import embeddings, models, texts

routers = (models.router, texts.router, embeddings.router)
