"""An object store that speaks S3 on a loopback port: moto's server, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import httpx

from tests.waiting import PATIENCE, wait_until

_REGION = "us-east-1"


@contextmanager
def serving_s3() -> Iterator[str]:
    """The address of a running store. The environment's `AWS_*` variables lead to it meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    variables = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": _REGION,
    }
    try:
        wait_until(lambda: process.poll() is None and _answers(url), "the object store answers")
        with mock.patch.dict(os.environ, variables):
            yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


def make_bucket(url: str, name: str) -> None:
    """An empty bucket."""
    httpx.put(f"{url}/{name}", headers={"Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{_REGION}/s3/x"})


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/moto-api/", timeout=PATIENCE).status_code < 500
    except httpx.TransportError:
        return False
