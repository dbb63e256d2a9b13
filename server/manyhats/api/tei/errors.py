"""TEI's errors: `{"error", "error_type"}`."""

from __future__ import annotations

from manyhats import errors
from manyhats.api.shaped_route import typed_error

error_body = typed_error(
    (
        (errors.InputTooLong, 413, "Validation"),
        (errors.TooLarge, 413, "Validation"),
        (errors.InvalidRequest, 422, "Validation"),
        (errors.Overloaded, 429, "Overloaded"),
        (errors.EngineFailure, 424, "Backend"),
        (errors.NotReady, 503, "Unhealthy"),
    )
)
