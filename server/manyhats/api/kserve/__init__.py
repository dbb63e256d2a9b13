"""The open inference protocol of KServe and Triton, over HTTP: `/v2`."""

from __future__ import annotations

from manyhats.api.kserve.models import infer_router, open_router, router

routers = (open_router, router, infer_router)
