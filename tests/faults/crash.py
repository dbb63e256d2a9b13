"""Servers that are killed at random points of every kind of change, started again, and looked through.

    python -m tests.faults.crash --points 100 --json benchmarks/results/crash.json     (`make crash`)

A point is a random line of those that the server runs from the request's beginning until after its answer, or a random
moment meanwhile. What was acknowledged must be there; what was not is there whole, or not at all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx

from tests.api.live import Files, adapter_files
from tests.faults.changes import KINDS, State, Workshop, state_of
from tests.faults.stored_blobs import InBucket, InFolders
from tests.postgres import Postgres
from tests.processes import Launcher, Process
from tests.s3 import endpoint
from tests.waiting import PATIENCE, wait_until

_SCRIPT = """
import sys
from pathlib import Path
from tests.faults.killed_server import serve
serve(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""
_NEEDS = ("tests.faults.killed_server",)
_TIMED = 4  # every so many points are moments, not lines
_BEYOND = 1.05  # of the lines of a whole change: some points lie behind its end


class KilledServer(Process):
    """A server on a store, which may end at any line."""

    def __init__(
        self, launcher: Launcher, folder: Path, number: int, database_url: str = "", blobs: InFolders | None = None
    ) -> None:
        self.store, self.folders = folder / "store", folder / "folders"
        super().__init__(
            launcher,
            folder / f"log-{number}",
            [str(self.store), str(self.folders), database_url],
            script=_SCRIPT,
            needs=_NEEDS,
            environment=blobs and blobs.environment,
        )
        match = wait_until(lambda: re.search(r"port (\d+)\n", self.text) or self._ended(), "the server listens")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{match[1]}", timeout=PATIENCE, verify=False)
        wait_until(self._ready, "the server is ready")

    def _ended(self) -> None:
        assert "Traceback" not in self.text, self.text

    def _ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Ends it, if it has not ended."""
        self.client.close()
        if self.code is None:
            try:
                super().kill()
            except ProcessLookupError:
                self.end()


def check_whole(store: Path, state: State, blobs: InFolders) -> None:
    """Every version has its files as they were sent, and nothing else lies about."""
    hidden = store / ".manyhats"
    assert list((hidden / "staging").iterdir()) == [], "something was left in staging"
    hashes = {sha for task in state.values() for sha in task["versions"].values()}
    blobs.check(store, hashes)
    for name, task in state.items():
        assert "stable" in task["aliases"], f"{name} has no stable"
        for target in task["aliases"].values():
            numbers = [one["version"] for one in target] if isinstance(target, list) else [target]
            assert set(numbers) <= set(task["versions"]), f"{name} points at {target}"


def check_files(store: Path, state: State, checked: set[str], blobs: InFolders) -> None:
    """The files of versions that nobody has looked at since they were made."""
    for task in state.values():
        for sha in set(task["versions"].values()) - checked:
            blobs.check_content(store, sha)
            checked.add(sha)


def killed_under(
    kind: str,
    points: int,
    launcher: Launcher,
    folder: Path,
    seed: int = 1,
    database_url: str = "",
    blobs: InFolders | None = None,
) -> dict[str, int]:
    """Kills a server at so many points of one kind of change. Returns how many there were of each sort.

    `database_url`: of an empty PostgreSQL; none: SQLite in the store. `blobs`: where its adapters' files are; none: in
    the store.

    Raises AssertionError where something acknowledged is gone, or something is there by half.
    """
    chance = random.Random(f"{kind} {seed}")
    (folder / "folders").mkdir(parents=True)
    blobs = blobs or InFolders()
    stock = _adapters(chance.randrange(1 << 30))
    counts: Counter[str] = Counter()
    checked: set[str] = set()
    lines, seconds = 0, 0.0
    server = KilledServer(launcher, folder, 0, database_url, blobs)
    shop = Workshop(server.client, lambda: next(stock), server.folders, server.store, chance)
    try:
        for number in range(points + 1):  # the first is counted, not killed
            shop.client, shop.number = server.client, number
            change = KINDS[kind](shop)
            before = state_of(server.client)
            end, moment = 0, None
            if number and number % _TIMED == 0:
                moment = chance.uniform(0, seconds)
            elif number:
                end = chance.randint(1, max(int(lines * _BEYOND), 1))
            begun = time.monotonic()
            with _killing(server, moment):
                acknowledged = False
                try:
                    answer = change.send(server.client, {"X-Kill-At": str(end)})
                    acknowledged = True
                    assert answer is None or answer.status_code in change.accepted, answer.text
                    seconds = time.monotonic() - begun
                    counted = int(server.client.get("/lines").text)
                    lines = (lines + counted) // 2 if lines else counted
                except httpx.TransportError:
                    pass
            server.kill()
            server = KilledServer(launcher, folder, number + 1, database_url, blobs)
            after = state_of(server.client)
            check_whole(server.store, after, blobs)
            check_files(server.store, after, checked, blobs)
            done = change.done(before, after)
            same = before == after
            between = change.between(before, after)
            others = _without(before, change.touches) == _without(after, change.touches)
            assert others, f"{kind}: other tasks have changed: {before} {after}"
            assert done or ((same or between) and not acknowledged and not change.sure), (
                f"{kind}, killed at line {end} or after {moment} s, "
                f"{'acknowledged' if acknowledged else 'not acknowledged'}: before {before}, after {after}"
            )
            _asked(server, after, change.touches)
            if number:
                counts["points"] += 1
                counts["moments" if moment is not None else "lines"] += 1
                unsaid = "done, not acknowledged" if done and not same else "begun" if between else "not done"
                counts["acknowledged" if acknowledged else unsaid] += 1
    finally:
        server.kill()
    return dict(counts) | {"lines of one change": lines}


def _without(state: State, task: str) -> State:
    return {name: value for name, value in state.items() if name != task}


def _asked(server: KilledServer, state: State, task: str) -> None:
    """The task's newest versions answer, and so does what its aliases name."""
    if task not in state:
        return
    for ref in (f"{task}@{one}" for one in [*list(state[task]["versions"])[-2:], *state[task]["aliases"]]):
        answer = server.client.post(f"/v1/tasks/{ref}/predict", json={"inputs": "w1 w2"})
        assert answer.status_code == 200, f"{ref}: {answer.text}"


@contextmanager
def _killing(server: KilledServer, moment: float | None) -> Iterator[None]:
    """Ends the server after so many seconds, whatever happens meanwhile; without a moment, it ends itself."""
    timer = threading.Timer(moment or 0.0, lambda: os.kill(server.pid, signal.SIGKILL)) if moment is not None else None
    if timer is not None:
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.join()


def _adapters(seed: int) -> Iterator[Files]:
    """Adapters without end, no two alike."""
    from tests.faults.killed_server import BACKBONE

    while True:
        for method in ("lora", "bottleneck", "prefix", "mask"):
            seed += 1
            yield adapter_files(BACKBONE, method, labels=2 + seed % 3, seed=seed)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.crash")
    parser.add_argument("kinds", nargs="*", help=f"of: {', '.join(KINDS)}; none: all")
    parser.add_argument("--points", type=int, default=100, help="points of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgresql", action="store_true", help="on a real PostgreSQL, in place of SQLite")
    parser.add_argument("--s3", action="store_true", help="with the adapters' files in a real S3 endpoint")
    parser.add_argument("--json", type=Path, help="write the counts there, beside those of other kinds")
    given = parser.parse_args()
    launcher = Launcher()
    stack = ExitStack()
    postgres = stack.enter_context(closing(Postgres())) if given.postgresql else None
    s3 = stack.enter_context(endpoint()) if given.s3 else None
    if s3 is not None:
        os.environ.update(s3.environment())
    results: dict[str, dict[str, int]] = {}
    failed = 0
    begin = time.monotonic()
    for kind in given.kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="crash-") as folder:
            url = "" if postgres is None else postgres.make()
            try:
                blobs = s3 and InBucket(s3)
                results[kind] = killed_under(kind, given.points, launcher, Path(folder), given.seed, url, blobs)
            except AssertionError as error:
                failed += 1
                results[kind] = {"failed": 1}
                print(f"{kind}: {error}", file=sys.stderr, flush=True)
        print(kind, json.dumps(results[kind]), flush=True)
    launcher.close()
    stack.close()
    total = sum(one.get("points", 0) for one in results.values())
    print(f"{total} points in {time.monotonic() - begin:.0f} s; {failed} kinds failed")
    if given.json:
        database = ("postgresql" if given.postgresql else "sqlite") + (", files in S3" if given.s3 else "")
        if given.json.exists() and (before := json.loads(given.json.read_text())).get("database", "sqlite") == database:
            results = before["kinds"] | results
        kinds = {kind: results[kind] for kind in KINDS if kind in results}
        head: dict[str, str | int] = {
            "database": database,
            "points": sum(one.get("points", 0) for one in kinds.values()),
        }
        head |= {"failed": sum("failed" in one for one in kinds.values()), "seed": given.seed}
        given.json.write_text(json.dumps(head | {"kinds": kinds}, indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
