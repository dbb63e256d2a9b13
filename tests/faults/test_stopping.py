"""Starting and stopping, as an operator sees it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from tests.api.live import wait_until
from tests.faults.conftest import Start
from tests.tiny import words

BIN = Path(sys.executable).parent / "manyhats"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopping_server_answers_what_it_has(serve: Start, adapters, number):
    server = serve().wait_ready()
    assert server.upload("t", adapters()).status_code == 201
    texts = [words(60, i) for i in range(1500)]
    answers: list[httpx.Response] = []

    def ask() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=120) as client:
            answers.append(client.post("/v1/tasks/t/predict", json={"inputs": texts}))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()

    def under_way() -> bool:
        figures = server.client.get("/metrics").text
        waiting = re.search(r"(?m)^manyhats_inputs_waiting (.+)$", figures)
        return bool(answers) or float(waiting[1]) > 0

    wait_until(under_way, "inputs wait")
    server.send(number)
    assert server.end() == 0
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [len(answer.json()["outputs"]) for answer in answers] == [1500, 1500]
    assert "Traceback" not in server.text


def test_a_server_stops_before_it_is_ready(serve: Start):
    server = serve()
    server.send(signal.SIGTERM)
    assert server.end() in (0, -signal.SIGTERM)  # the latter, before it has come to say what a signal means


def test_a_second_server_on_the_same_store_says_so_in_one_line(serve: Start, adapters, tmp_path, base_folder):
    first = serve().wait_ready()
    first.upload("t", adapters())
    command = [BIN, "serve", "--backbone", base_folder("bert"), "--store", tmp_path / "store", "--port", "0"]
    second = subprocess.run(
        [*command, "--device", "cpu", "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    assert second.returncode == 1
    (line,) = [line for line in second.stderr.splitlines() if "it/s" not in line]
    assert line.startswith("manyhats: another server uses the store")
    assert second.stdout == ""
    assert first.ask("t").status_code == 200
    first.kill()
    # The lock of a killed server holds nobody up.
    assert serve().wait_ready().ask("t").status_code == 200


def test_what_cannot_work_is_said_in_one_line(serve: Start, tmp_path):
    (tmp_path / "file").write_text("")
    for options, code, pattern in (
        (["--backbone", str(tmp_path / "nowhere")], 1, "nowhere"),
        (["--backbone", str(tmp_path)], 1, "cannot be loaded"),
        (["--store", str(tmp_path / "file" / "store")], 1, "store"),
        (["--device", "toaster"], 1, "toaster"),
        (["--port", "99999"], 2, "port"),
        (["--slots", "many"], 2, "slots"),
        (["--config", str(tmp_path / "no.toml")], 2, "no.toml"),
        (["--no-such-option"], 2, "no-such-option"),
    ):
        server = serve(None, *options)
        assert server.end() == code, server.text
        assert "Traceback" not in server.text
        assert pattern in server.text.splitlines()[-1] or code == 2
        assert pattern in server.text


def test_a_port_that_is_taken(serve: Start):
    first = serve().wait_ready()
    server = serve(Path(str(first.log) + "-store"), "--port", str(first.client.base_url.port))
    assert server.end() == 1
    assert "Traceback" not in server.text
    assert first.ask("base").status_code == 200
