"""One target in a process of its own: `python -m tests.fuzz.worker TARGET RUNS SECONDS FOLDER`.

With atheris on the path, libFuzzer leads it to branches that no input has taken before; without, inputs are changed at
random. The last line of the output is JSON: how many executions there were, and in how many seconds. An input that
breaks the target is left in FOLDER as `crash-...`, and new ones that are worth keeping in FOLDER/found.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.fuzz.instrumented import INSTRUMENTED

MEMORY = 3 << 10  # MiB that a worker may take, with torch and the backbone
SLOWEST = 20  # seconds of one execution


def main(name: str, runs: int, seconds: float, folder: Path) -> int:
    """The process's exit code: 0, or 1 where something was found."""
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris  # type: ignore[import-not-found]

        with atheris.instrument_imports(include=list(INSTRUMENTED[name])):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.contract import execute
    from tests.fuzz.corpus import findings, kept

    target = TARGETS[name]
    check = target.make()
    known = [*target.seeds(), *kept(name), *findings(name).values()]
    counted = [0, 0.0, 0.0]  # executions, seconds of the slowest, and when to write them next
    begin = time.monotonic()

    def one(data: bytes) -> None:
        before = time.process_time()  # of this process alone, whatever else the machine does
        execute(check, data)
        counted[0] += 1
        counted[1] = max(counted[1], time.process_time() - before)
        after = time.monotonic()
        if after > counted[2]:  # libFuzzer ends the process by itself
            counted[2] = after + 1
            report()

    def report() -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        figures: dict[str, Any] = {"executions": counted[0], "guided": guided}
        figures |= {"slowest_seconds": round(counted[1], 3), "peak_mib": peak}
        (folder / "figures.json").write_text(json.dumps(figures))

    if guided:
        for data in known:
            (found / hashlib.sha1(data).hexdigest()).write_bytes(data)
        words = folder / "words.txt"
        words.write_text("".join('"' + "".join(map("\\x{:02x}".format, word)) + '"\n' for word in target.words))
        options = [
            f"-runs={runs}",
            f"-max_total_time={int(seconds)}",
            f"-max_len={target.longest}",
            "-print_final_stats=1",
        ]
        options += [f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={folder}/", f"-dict={words}"]
        options += ["-reload=0", "-verbosity=0", str(found)]
        atheris.Setup([sys.argv[0], *options], one, enable_python_coverage=True)
        atheris.Fuzz()
        return 0
    from tests.fuzz.mutate import mutated

    for data in known:
        one(data)
    chance = random.Random(int.from_bytes(os.urandom(8)))
    for data in mutated(chance, known, target.words, target.longest):
        if counted[0] >= runs or time.monotonic() - begin > seconds:
            break
        try:
            one(data)
        except Exception:
            traceback.print_exc()
            (folder / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            report()
            return 1
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])))
