"""Debian's nginx, run with a configuration that the documentation gives."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import PATIENCE, wait_until

FILES = Path(__file__).parents[1] / "deploy" / "nginx"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
JAVASCRIPT = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def running_nginx(folder: Path, name: str, ports: list[int], *, javascript: bool = False) -> Iterator[str]:
    """nginx in front of two ports with `deploy/nginx/NAME`; its URL. Its files are in `folder`.

    Skips the test where nginx, or its JavaScript module where that is wanted, is not there.
    """
    if NGINX is None:
        pytest.skip("needs nginx")
    if javascript and not JAVASCRIPT.is_file():
        pytest.skip("needs nginx's JavaScript module, Debian's libnginx-mod-http-js")
    port = free_port()
    text = (FILES / name).read_text(encoding="utf-8")
    changes = {"listen 80;": f"listen 127.0.0.1:{port};"}
    changes |= {f"manyhats-{i}:8000": f"127.0.0.1:{one}" for i, one in enumerate(ports, 1)}
    if javascript:
        changes["js_path /etc/nginx/manyhats;"] = f"js_path {FILES};"
    for given, here in changes.items():
        assert given in text
        text = text.replace(given, here)
    (folder / "site.conf").write_text(text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    main = folder / "nginx.conf"
    main.write_text(
        (f"load_module {JAVASCRIPT};\n" if javascript else "")
        + f"user {getpass.getuser()}; daemon off; worker_processes 1;\n"
        f"pid {folder}/nginx.pid; error_log {folder}/nginx.log info;\n"
        f"events {{ worker_connections 256; }}\n"
        f"http {{ access_log off; {temporary}\ninclude {folder}/site.conf; }}\n"
    )
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(main)], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), "nginx listens")
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.fail(f"nginx does not start: {process.stderr.read().decode()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)
        assert process.stderr is not None
        process.stderr.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
