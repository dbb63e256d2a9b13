"""Starts the server on the example tasks, asks all of them in one call, and shows what shared a batch.

Stays until Ctrl-C with the server running; with DEMO_EXIT=1 it stops after the table, and exits with 0 only if every
task answered.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

QUESTIONS = {
    "sentiment": "The plot is thin, but the acting is wonderful and I laughed all the way through.",
    "spam": "CONGRATULATIONS!!! You have been selected. Click here now to claim your FREE prize of $5,000.",
    "parts-of-speech": "The old man quietly fed three hungry pigeons in the park.",
    "glosses": "a small wild bird with a red breast that sings in winter",
    "definitions": "lighthouse",
    "interface-french": "Please enter a valid date.",
    "base": "A sentence for the bare backbone.",
}
ANY_QUESTION = "The committee approved the budget after a long and bitter debate."


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def wait_ready(client: httpx.Client, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Returns when the server can answer; exits where it ended or does not come up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.poll() is not None:
            sys.exit(f"the server ended with status {server.returncode}")
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"the server was not ready within {seconds:g} s")


def short(kind: str, output: dict[str, Any]) -> str:
    """One answer in a few words."""
    match kind:
        case "classify":
            return f"{output['label']} ({output['score']:.2f})"
        case "tokens":
            return " ".join(f"{e['word']}/{e['entity_group']}" for e in output["entities"])
        case "regress":
            return f"{output['value']:.3f}"
        case "embed":
            numbers = ", ".join(f"{x:.3f}" for x in output["embedding"][:3])
            return f"{len(output['embedding'])} numbers: {numbers} ..."
        case "generate":
            return str(output["text"]).strip()
    return str(output)


def ask(client: httpx.Client) -> bool:
    """Asks every task in one call and prints the answers; whether all of them answered."""
    tasks = client.get("/v1/tasks", params={"limit": 1000}).raise_for_status().json()["data"]
    methods = {task["name"]: task["method"] for task in tasks} | {"base": "none"}
    kinds = {task["name"]: task["kind"] for task in tasks}
    kinds["base"] = client.get("/v1/tasks/base").raise_for_status().json()["kind"]
    few = {"max_new_tokens": 24}
    requests = [
        {
            "task": name,
            "inputs": QUESTIONS.get(name, ANY_QUESTION),
            "parameters": few if kinds[name] == "generate" else {},
        }
        for name in methods
    ]
    results = client.post("/v1/predict", json={"requests": requests}).raise_for_status().json()["results"]
    table = Table("task", "method", "input", "answer", "batch", title="One call, every task", show_lines=True)
    for request, result in zip(requests, results, strict=True):
        name = request["task"]
        if "error" in result:
            table.add_row(name, methods[name], request["inputs"], f"[red]{result['error']['message']}", "-")
            continue
        batch = result["batch"]
        shared = f"no. {batch['id']}: {batch['tasks']} tasks, {', '.join(batch['methods'])}"
        answer = short(result["kind"], result["outputs"][0])
        table.add_row(name, methods[name], request["inputs"], answer, shared)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return bool(tasks) and all("error" not in result for result in results)


def main() -> int:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--store", required=True)
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    args = parser.parse_args()
    port = args.port or free_port()
    url = f"http://127.0.0.1:{port}"
    begin = time.monotonic()
    options = ["--backbone", args.backbone, "--store", args.store, "--port", str(port)]
    server = subprocess.Popen([sys.executable, "-m", "manyhats.cli", "serve", *options])
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            wait_ready(client, server)
            answered = ask(client)
        print(f"{time.monotonic() - begin:.1f} s from start to answer")
        if os.environ.get("DEMO_EXIT") == "1":
            return 0 if answered else 1
        print(f"The server is running at {url} (its page: {url}/, its interface: {url}/docs). Ctrl-C ends it.")
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    sys.exit(main())
