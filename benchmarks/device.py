"""A look at the engine on a GPU: is it right there, how fast is it, and where does the time go.

    python benchmarks/device.py [--blocks a,c,e] [--total SECONDS] [--out FOLDER] [--device cpu --small]

From the project's root. Each block runs in a process of its own with a time limit of its own; its results are written
at once to FOLDER/device.json, its output to FOLDER/device.log. A block that fails, hangs or crashes stops no other.
With less time the most telling blocks run. The last lines say of each target whether it is met.
`--device cpu --small` tries all blocks in small shapes on a machine without a GPU; its times say nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from device.blocks import BLOCKS
from device.child import child
from device.parent import parent


def main() -> int:
    """Runs the blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = ", ".join(f"{name} ({block.what})" for name, block in BLOCKS.items())
    parser.add_argument("--blocks", default=",".join(BLOCKS), help=f"in the order in which they run; all of {what}")
    parser.add_argument("--total", type=float, default=480, help="seconds of all blocks together")
    parser.add_argument("--slack", type=float, default=1.0, help="times each block's own limit")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or "build/device"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--kernels", default="auto", help="of the timed blocks: auto, cuda or reference")
    parser.add_argument("--small", action="store_true", help="small shapes and few rounds: a trial")
    parser.add_argument("--started", type=float, default=time.time(), help="when it began, in seconds since 1970")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return 0
    return parent(options, Path(__file__).resolve())


if __name__ == "__main__":
    sys.exit(main())
