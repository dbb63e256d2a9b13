"""What every target promises: a value, or an error of ours that can be answered with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from manyhats.errors import ConfigurationError, ManyhatsError

Check = Callable[[bytes], object]
LONGEST_MESSAGE = 4000  # characters of an error's message, whatever was sent


class Target(NamedTuple):
    """One parser. `make`: prepares it, once a process, and gives what is called with each input.

    `seeds`: inputs that are in order, to begin with. `words`: what inputs are made of, for who mutates without
    measuring coverage. `share`: how many of a run's executions it gets, relative to the others. `longest`: bytes of an
    input.
    """

    make: Callable[[], Check]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    share: int = 1
    longest: int = 4096


class Broken(AssertionError):
    """A target did something else than it promises."""


def execute(check: Check, data: bytes) -> str | None:
    """Gives a target one input. Returns the message of the error that it refused it with, None for a value.

    Raises Broken, or whatever came out that is none of our errors.
    """
    try:
        check(data)
    except ManyhatsError as error:
        message = str(error)
        if not message or len(message) > LONGEST_MESSAGE:
            raise Broken(f"a message of {len(message)} characters: {message[:200]!r}") from error
        if not isinstance(error, ConfigurationError):  # those are for the operator's terminal
            _answerable(error)
        return message
    return None


def _answerable(error: ManyhatsError) -> None:
    """Whether the web layer can answer with it, and blames the caller."""
    from manyhats.api.errors import response

    answer = response(error)
    bytes(answer.body).decode()
    if answer.status_code >= 500:
        raise Broken(f"the answer would be a {answer.status_code}: {error}") from error


def scratch() -> Path:
    """A folder in memory, where there is one; it goes with the process."""
    memory = Path("/dev/shm")
    kept = tempfile.TemporaryDirectory(prefix="manyhats-fuzz-", dir=memory if memory.is_dir() else None)
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def pieces(data: bytes, most: int) -> list[bytes]:
    """An input in `most` parts at most, with a zero byte and 0xff between them."""
    return data.split(b"\x00\xff", most - 1)
