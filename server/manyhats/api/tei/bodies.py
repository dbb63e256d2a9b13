"""What TEI's requests have in common."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import StrictStr

from manyhats.api.pooled import PooledBody, truncation
from manyhats.errors import InvalidRequest


class TeiBody(PooledBody):
    """`adapter_id` or `model` names the task; without either it is the bare backbone."""

    adapter_id: StrictStr | None = None

    @property
    def task(self) -> str | None:
        """The task's name. Raises InvalidRequest for two of them."""
        if self.adapter_id is not None and self.model not in (None, self.adapter_id):
            raise InvalidRequest("'model' and 'adapter_id' name two tasks; give one of them", param="adapter_id")
        return self.model if self.adapter_id is None else self.adapter_id

    def parameters(self, request: Request) -> dict[str, Any]:
        """Whether inputs are truncated, as parameters. Raises InvalidRequest for what is not supported."""
        self.check()
        return truncation(self, request)
