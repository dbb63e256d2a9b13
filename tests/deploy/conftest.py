"""What the tests of `deploy/` share: real servers, as those of faults have them."""

from __future__ import annotations

from tests.faults.conftest import adapters, serve

__all__ = ["adapters", "serve"]
