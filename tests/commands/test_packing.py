"""The parts of an upload are made by one module, which the server and the client both have."""

from pathlib import Path

import manyhats_client.packing
from manyhats.commands import packing


def test_the_client_packs_with_the_same_module() -> None:
    assert Path(manyhats_client.packing.__file__).read_bytes() == Path(packing.__file__).read_bytes()
