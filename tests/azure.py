"""A pytest plugin: the tests of an object store over Azurite, Azure's emulator, in place of S3 (`make test-azure`).

Azurite listens on port 10000, and has the one account that its documentation publishes with its key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import httpx
import pytest

AZURITE = "http://127.0.0.1:10000"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"  # of the interface


def _on_container(method: str, name: str) -> int:
    """Makes or deletes a container, signed with the account's key; the status."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": VERSION}
    signed = [method, *[""] * 11, *(f"{key}:{value}" for key, value in headers.items())]
    signed += [f"/{ACCOUNT}/{ACCOUNT}/{name}", "restype:container"]
    digest = hmac.new(base64.b64decode(KEY), "\n".join(signed).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{AZURITE}/{ACCOUNT}/{name}"
    return httpx.request(method, url, params={"restype": "container"}, headers=headers).status_code


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Has Azurite behind the proxy of each endpoint. Not before the tests' own modules are loaded."""
    from tests import s3

    class Container(s3.Endpoint):
        def bucket(self) -> str:
            name = self.new_name()
            assert _on_container("PUT", name) == 201
            return f"az://{name}/some/prefix"

        def delete_bucket(self, address: str) -> None:
            assert _on_container("DELETE", address.split("/")[2]) == 202

        def environment(self) -> dict[str, str]:
            return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.url}

    @contextmanager
    def endpoint() -> Iterator[s3.Endpoint]:
        with s3.behind_proxy(Container("", AZURITE)) as one:
            yield one

    s3.endpoint = endpoint
