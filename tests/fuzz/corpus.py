"""The inputs that are kept: one file a target, a line an input in base64, and the findings each in a file."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
FINDINGS = Path(__file__).parent / "findings"
_KEPT = 48 << 10  # bytes of a target's inputs
_LONGEST = 4096  # bytes of one of them


def kept(target: str) -> list[bytes]:
    """The inputs that are kept of a target, the shortest first."""
    path = CORPUS / f"{target}.txt"
    return [base64.b64decode(line) for line in path.read_text().split()] if path.exists() else []


def findings(target: str) -> dict[str, bytes]:
    """What once broke a target, by the name of its file, `target--what.bin`."""
    return {path.name: path.read_bytes() for path in sorted(FINDINGS.glob(f"{target}--*.bin"))}


def keep(target: str, inputs: Iterable[bytes]) -> int:
    """Writes the shortest of the inputs, as many as there is room for. Returns how many."""
    chosen: list[bytes] = []
    room = _KEPT
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        room -= 4 * len(data) // 3 + 5
        if room < 0 or len(data) > _LONGEST:
            break
        chosen.append(data)
    (CORPUS / f"{target}.txt").write_text("".join(base64.b64encode(data).decode() + "\n" for data in chosen))
    return len(chosen)
