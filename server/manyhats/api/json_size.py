"""How many values a JSON body holds, counted before it is parsed.

A parser makes an object of every value, and of `[{},{},...]` one that is 24 times as large as its text. What a body may
cost is therefore limited by its values and not by its bytes alone.
"""

from __future__ import annotations

import numpy as np

from manyhats.errors import TooLarge

_CHUNK = 1 << 20  # bytes looked at in one go, so that other threads have their turn between
_QUOTE, _BACKSLASH = ord('"'), ord("\\")
# A number costs its separator alone; a text or a container costs about four times as much memory.
_COST = {b",": 1, b":": 1, b"[": 4, b"{": 4, b'"': 2}
_MAX_COST = max(_COST.values())
_TABLE = np.zeros(256, dtype=np.uint8)
for _sign, _cost in _COST.items():
    _TABLE[ord(_sign)] = _cost


def check_values(body: bytes, limit: int) -> None:
    """Raises TooLarge for a body of more than `limit` values; a text, a list or an object counts as four or five."""
    if len(body) * _MAX_COST <= limit:
        return
    # Signs within texts count here too, so that most bodies with long texts in them are through at once.
    if sum(body.count(sign) * cost for sign, cost in _COST.items()) <= limit:
        return
    if _more_than(body, limit):
        raise TooLarge(
            f"the body holds more than {limit} values (a text, a list or an object counts as four); "
            "send fewer in one call",
            param="body",
        )


def _more_than(body: bytes, limit: int) -> bool:
    """Whether the values outside of texts cost more than `limit`."""
    total, begin, within = 0, 0, False
    while begin < len(body):
        end = min(begin + _CHUNK, len(body))
        while end < len(body) and body[end - 1] == _BACKSLASH:  # what it escapes belongs to the same chunk
            end += 1
        chunk = body[begin:end]
        begin = end
        if b"\\" in chunk:  # in this order: the second backslash of a pair escapes nothing
            chunk = chunk.replace(b"\\\\", b"").replace(b'\\"', b"")
        if not chunk:
            continue
        signs = np.frombuffer(chunk, dtype=np.uint8)
        quotes = signs == _QUOTE
        inside = np.logical_xor.accumulate(quotes) ^ within
        total += int(_TABLE[signs][~inside | quotes].sum(dtype=np.int64))
        within = bool(inside[-1])
        if total > limit:
            return True
    return False
