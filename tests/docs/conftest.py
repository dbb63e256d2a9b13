"""The server that the pages' commands ask: started once, as `make demo` starts it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.demo import Demo


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A fresh clone with its server; `demo.page()` gives the example tasks back as they were."""
    with Demo(tmp_path_factory.mktemp("clone")) as one:
        yield one
