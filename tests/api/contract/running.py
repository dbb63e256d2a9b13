"""Servers with tasks of every kind, and schemathesis run on them.

python -m tests.api.contract.running [--examples 50] [--seed N] [ARGUMENTS OF SCHEMATHESIS ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import schemathesis
from manyhats.backbone import Backbone
from manyhats.bench.server import serving

from tests import tiny
from tests.api.live import Files, adapter_files
from tests.waiting import PATIENCE

ASK, ADMIN = "key-that-asks-0123456789", "key-that-changes-0123456789"
SPARE = 12  # tasks for what is taken away
SEED = 20
KINDS_ON = {"bert": ("classify", "tokens", "regress", "rerank", "embed"), "llama": ("generate", "classify", "embed")}
# Left out: whether data that the document allows is taken, and other data refused, depends on the tasks as well as on
# it; and a body that is no JSON is refused before it is known that its path does not take the method.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,allow_header_conformance,ignored_auth"
)


@contextmanager
def server(base: Path, store: Path) -> Iterator[tuple[str, list[str]]]:
    """A server with keys over this backbone, its address, and its tasks: one of each kind that it can have."""
    backbone = tiny.load(base)
    kinds = KINDS_ON[backbone.config.model_type]
    allowed = store.parent / "allowed"
    (allowed / "one").mkdir(parents=True)
    options = {"backbone": base, "store": store, "dtype": "float32", "device": "cpu", "threads": 1}
    keys = {"api_keys": ASK, "admin_keys": ADMIN, "adapter_folders": allowed, "log_level": "warning"}
    with (
        serving(options | keys | {"request_timeout": 20, "cache_memory": "64MiB"}) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=PATIENCE) as client,
    ):
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        for kind in kinds:
            for seed in (1, 2):
                _upload(client, f"task-{kind}", adapter_files(backbone, kind=kind, labels=_labels(kind), seed=seed))
        for i in range(SPARE):
            _upload(client, f"spare-{i}", _adapter(backbone, kinds[0], i))
        yield f"http://127.0.0.1:{running.port}", ["base", *(f"task-{kind}" for kind in kinds)]


def _labels(kind: str) -> int:
    return {"regress": 1, "rerank": 1, "span": 2}.get(kind, 3)


def _adapter(backbone: Backbone, kind: str, seed: int) -> Files:
    return adapter_files(backbone, kind=kind, labels=_labels(kind), seed=seed + 10)  # type: ignore[arg-type]


def _upload(client: httpx.Client, task: str, files: Files) -> None:
    parts = [("files", (name, data)) for name, data in files.items()]
    client.post(f"/v1/tasks/{task}/versions", files=parts).raise_for_status()


def run(url: str, tasks: Sequence[str], examples: int, seed: int, *more: str) -> subprocess.CompletedProcess[str]:
    """schemathesis on a server's own document, as its command line runs it. `more`: further arguments of its."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
    command += [
        "--header",
        f"Authorization: Bearer {ADMIN}",
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += ["--max-examples", str(examples), "--seed", str(seed), "--no-color"]
    command += [
        "--generation-deterministic",
        "--request-timeout",
        "60",
        "--suppress-health-check",
        "all",
        "--warnings",
        "off",
    ]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.api.contract.hooks",
        "CONTRACT_TASKS": ",".join(tasks),
        "CONTRACT_SPARE": str(SPARE),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    # In a folder of its own: it reads schemathesis.toml, and writes what it remembers, where it stands.
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            [*command, *more], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )


def main() -> int:
    """Runs it on an encoder and on a decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=50, help="of each operation")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--on", default="bert,llama")
    given, more = parser.parse_known_args()
    worst = 0
    for family in given.on.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            base = tiny.write_base(family, Path(temporary) / "base")
            with server(base, Path(temporary) / "store") as (url, tasks):
                print(f"schemathesis {schemathesis.__version__} on {family}: {', '.join(tasks)}", flush=True)
                ran = run(url, tasks, given.examples, given.seed, *more)
                print(ran.stdout, ran.stderr, flush=True)
                worst = max(worst, ran.returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
