"""What OpenAI's clients call: `/v1/models`, `/v1/completions`, `/v1/chat/completions`."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from manyhats.api.auth import may_ask
from manyhats.api.openai import models, texts

router = APIRouter(prefix="/v1", tags=["openai"], dependencies=[Depends(may_ask)])
router.include_router(models.router)
router.include_router(texts.router)
