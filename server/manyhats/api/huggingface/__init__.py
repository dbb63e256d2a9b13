"""What Hugging Face's `InferenceClient` calls, answered by the task's kind."""

from __future__ import annotations

from manyhats.api.huggingface.routes import router

routers = (router,)
