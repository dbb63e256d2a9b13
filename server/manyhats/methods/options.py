"""Reads a method's training options, and rejects unknown ones with a list of those that exist."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyhats.errors import InvalidRequest
from manyhats.methods.component import Component


class Options:
    """The training options for one method. Call `reject_unknown` after reading all options that the method has."""

    def __init__(self, given: Mapping[str, Any], *, method: str) -> None:
        self._unread = dict(given)
        self._known: list[str] = []
        self._method = method

    def _pop(self, name: str, default: Any) -> Any:
        self._known.append(name)
        return self._unread.pop(name, default)

    def integer(self, name: str, default: int, *, minimum: int = 0) -> int:
        """A whole number of at least `minimum`. Raises InvalidRequest."""
        value = self._pop(name, default)
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            number = minimum - 1
        if number < minimum or number != float(value):
            raise InvalidRequest(f"{self._method}: {name} must be a whole number of at least {minimum}, not {value!r}")
        return number

    def number(self, name: str, default: float, *, minimum: float = 0.0, maximum: float = float("inf")) -> float:
        """A number within [minimum, maximum]. Raises InvalidRequest."""
        value = self._pop(name, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and minimum <= number <= maximum):
            raise InvalidRequest(f"{self._method}: {name} must lie between {minimum} and {maximum}, not {value!r}")
        return number

    def choice(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """One of a few words. Raises InvalidRequest."""
        value = self._pop(name, default)
        if value not in allowed:
            raise InvalidRequest(f"{self._method}: {name} must be one of {', '.join(allowed)}, not {value!r}")
        return str(value)

    def flag(self, name: str) -> bool:
        """`yes` or `no` (the default). Raises InvalidRequest."""
        return self.choice(name, "no", ("no", "yes")) == "yes"

    def names(self, name: str, default: Sequence[str]) -> list[str]:
        """A list of names, or one string with commas between them. Raises InvalidRequest."""
        value = self._pop(name, default)
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, Sequence) or not value:
            raise InvalidRequest(f"{self._method}: {name} must be a list of names, not {value!r}")
        return [str(item).strip() for item in value]

    def numbers(self, name: str, default: Sequence[float]) -> list[float]:
        """A list of numbers, or one string with commas between them. Raises InvalidRequest."""
        found = []
        for item in self.names(name, [str(one) for one in default]):
            try:
                found.append(float(item))
            except ValueError:
                found.append(math.nan)
            if not math.isfinite(found[-1]):
                raise InvalidRequest(f"{self._method}: {name} must be numbers, not {item!r}")
        return found

    def components(self, name: str) -> list[Component[Any]]:
        """The components given by the caller. Raises InvalidRequest where there are none."""
        value = self._pop(name, None)
        if not isinstance(value, list) or not all(isinstance(component, Component) for component in value):
            raise InvalidRequest(f"{self._method} needs the option {name}: folders of trained adapters", param=name)
        return value

    def reject_unknown(self) -> None:
        """Raises InvalidRequest for an option that was not read."""
        if self._unread:
            unknown = sorted(self._unread)[0]
            raise InvalidRequest(
                f"{self._method} has no option '{unknown}'; it has {', '.join(self._known)}", param=unknown
            )
