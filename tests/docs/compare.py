"""Whether an output that a page shows is the one that a run gave, and how a run's output is written on a page.

What changes from run to run does not count: ids, times, durations, numbers of batches. Fractions may differ a little,
as processors and bfloat16 round differently. Everything else must be alike: names, labels, counts, digests, layout.
"""

from __future__ import annotations

import json
import re
from typing import Any

_VOLATILE_FIELDS = {"id", "created", "system_fingerprint", "queue_ms", "load_ms", "compute_ms"} | {
    *("since", "at", "p50_ms", "p95_ms"),  # of a roll-out
}
# The patterns' first group is what does not count.
_VOLATILE_TEXT = [
    re.compile(r"\bno\. (\d+)(?=: \d+ tasks)"),
    re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)(?= s\b)"),
    re.compile(r"/((?:pred|cmpl)-[0-9a-f]{32})"),
]
_DIGEST = re.compile(r'(?<=\bsha256 )[0-9a-f]{12}\b|(?<="sha256":")[0-9a-f]{64}(?=")')
# Percentages, or both ends of an interval of them, as `72.8 to 79.6 %`; else fractions.
_FRACTION = re.compile(r"(?<![\w.])-?\d+\.\d+(?![\w.]*\d)(?P<percent> %|(?= to \d+\.\d+ %))?")
_WIDTH = 118


def close(one: float, other: float, percent: bool = False) -> bool:
    """Whether two fractions are the same measurement: within 0.02, or within 3 points of a percentage."""
    return abs(one - other) <= (3.0 if percent else 0.02)


def difference(shown: str, given: str, trained: bool = False) -> str | None:
    """The first line, or field, where a shown output is not the one given; None where there is none.

    `trained`: an adapter was made by the run itself, and its digest is its own.
    """
    if trained:
        shown, given = (_DIGEST.sub("~", text) for text in (shown, given))
    try:
        return _fields(json.loads(shown), json.loads(given), "")
    except ValueError:
        pass
    ours, theirs = _lines(shown), _lines(given)
    for one, other in zip(ours, theirs, strict=False):
        if not _same_line(one, other):
            return f"shown: {one!r}\ngiven: {other!r}"
    if len(ours) != len(theirs):
        rest = (ours[len(theirs) :] or theirs[len(ours) :])[0]
        return f"{'shown' if len(ours) > len(theirs) else 'given'} only: {rest!r}"
    return None


def written(given: str) -> str:
    """A run's output as a page shows it: no blanks at the ends of lines, JSON broken into lines that can be read."""
    try:
        value = json.loads(given)
    except ValueError:
        return "".join(line + "\n" for line in _lines(given))
    if not isinstance(value, dict) or given.lstrip().startswith(("{\n", "[\n")):
        return given.rstrip("\n") + "\n"
    return _filled(value)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _filled(value: dict[str, Any]) -> str:
    """JSON as the server writes it, broken into lines between fields, and between the items of a long list."""
    lines = ["{"]

    def add(piece: str, indent: int, fresh: bool = False) -> None:
        if lines[-1].strip(" {") and (fresh or len(lines[-1]) + len(piece) > _WIDTH):
            lines.append(" " * indent)
        lines[-1] += piece

    last = len(value) - 1
    for i, (key, field) in enumerate(value.items()):
        name = f"{_compact(key)}:"
        end = "" if i == last else ","
        if isinstance(field, list) and len(_compact(field)) > _WIDTH:
            add(f"{name}[", 1, fresh=True)
            indent = len(lines[-1])
            for j, entry in enumerate(field):
                lines.extend([" " * indent] if j else [])
                for piece in re.split(r'(?<=,)(?="|\{)', _compact(entry)):
                    add(piece, indent + 1)
                lines[-1] += f"]{end}" if j == len(field) - 1 else ","
            lines.extend([" "] if end else [])
        else:
            add(f"{name}{_compact(field)}{end}", 1)
    return "\n".join(lines) + "}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _fields(shown: Any, given: Any, place: str) -> str | None:
    match shown, given:
        case dict(), dict():
            if list(shown) != list(given):
                return f"{place or 'the answer'}: shown the fields {list(shown)}, given {list(given)}"
            pairs = [(key, shown[key], given[key]) for key in shown if key not in _VOLATILE_FIELDS]
        case list(), list():
            if len(shown) != len(given):
                return f"{place}: shown {len(shown)} items, given {len(given)}"
            pairs = [(str(i), one, other) for i, (one, other) in enumerate(zip(shown, given, strict=True))]
        case float(), float():
            return None if close(shown, given) else f"{place}: shown {shown}, given {given}"
        case _:
            same = type(shown) is type(given) and shown == given
            return None if same else f"{place}: shown {shown!r}, given {given!r}"
    return next((told for key, *values in pairs if (told := _fields(*values, f"{place}.{key}"))), None)


def _same_line(one: str, other: str) -> bool:
    for pattern in _VOLATILE_TEXT:
        one, other = (pattern.sub(lambda found: "~" * len(found[1]), line) for line in (one, other))
    # A time of another width moves what stands behind it, and a number's own width is no difference.
    skeletons = [re.sub(r"~+", "~", _FRACTION.sub(lambda m: f"#{m['percent'] or ''}", line)) for line in (one, other)]
    if skeletons[0] != skeletons[1]:
        return False
    pairs = zip(_FRACTION.finditer(one), _FRACTION.finditer(other), strict=True)
    return all(close(_value(first), _value(second), percent=first["percent"] is not None) for first, second in pairs)


def _value(found: re.Match[str]) -> float:
    return float(found[0].removesuffix(" %"))
