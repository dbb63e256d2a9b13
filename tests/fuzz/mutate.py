"""Changes inputs at random, where nothing measures which branches an input takes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence


def mutated(chance: random.Random, known: Sequence[bytes], words: Sequence[bytes], longest: int) -> Iterator[bytes]:
    """Inputs without end: each a known one with one to six changes, some spliced with another."""
    while True:
        data = bytearray(chance.choice(known))
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            at = chance.randint(0, len(data))
            match chance.randrange(8):
                case 0:
                    data[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    if at < len(data):
                        data[at] ^= 1 << chance.randrange(8)
                case 2:
                    del data[at : at + chance.choice((1, 1, 2, 8, 64))]
                case 3:
                    data[at:at] = chance.choice(words) if words else b"\0"
                case 4:
                    end = min(len(data), at + chance.choice((1, 4, 16, 64)))
                    data[at:at] = data[at:end] * chance.choice((1, 1, 2, 20))
                case 5:
                    other = chance.choice(known)
                    cut = chance.randint(0, len(other))
                    data = data[:at] + bytearray(other[cut:])
                case 6:
                    data[at : at + 8] = chance.choice((0, 1, 127, 128, 255, 1 << 31, (1 << 63) - 1, 1 << 63)).to_bytes(
                        8, "little"
                    )
                case _:
                    del data[at:]
        yield bytes(data[:longest])
