"""Sends questions and judges what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from soak.questions import Found, Question, Work
from soak.tally import Tally
from soak.truth import Truth

PATIENCE = 90.0  # seconds: longer than `request_timeout`, after which the server owes a 504
REFUSALS = {429, 503, 504}
_NEEDS_RETRY_AFTER = {429, 503}
_ABSENT = {"huggingface", "generate"}  # whose clients expect 424 where others answer 404, and 500 for 504
References = Mapping[str, Mapping[int, dict[str, Any]]]  # by adapter and text


def new_session(port: int) -> aiohttp.ClientSession:
    """Connections are given up before the server closes them, so that no request is sent into a closing one."""
    return aiohttp.ClientSession(
        f"http://127.0.0.1:{port}",
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2),
        timeout=aiohttp.ClientTimeout(total=PATIENCE),
    )


class Asker:
    """Counts into `tally`. `doubtful`: answers of texts that differ from their references, to be looked at alone."""

    def __init__(
        self, session: aiohttp.ClientSession, work: Work, truth: Truth, references: References, tally: Tally
    ) -> None:
        self._session = session
        self._work = work
        self._truth = truth
        self._references = references
        self._tally = tally
        self.doubtful: asyncio.Queue[tuple[Question, Found, list[str]]] = asyncio.Queue()

    async def ask(self, question: Question) -> None:
        """One request, whose answer is compared with what may answer now."""
        begin = time.perf_counter()
        try:
            async with self._session.post(question.path, json=question.body) as response:
                status, headers, data = response.status, response.headers, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            self._tally.fault("lost", question.route, question.path, repr(error))
            return
        end = time.perf_counter()
        self._tally.latencies.append(end - begin)
        if status in REFUSALS or (status == 500 and question.route in _ABSENT and b"no answer within" in data):
            self._tally.refused[status if status in REFUSALS else 504] += 1
            if status in _NEEDS_RETRY_AFTER and "Retry-After" not in headers:
                self._tally.fault("refused without Retry-After", question.route, status, data)
            return
        self._tally.answered += 1
        self._tally.routes[question.route] += 1
        if status == 200:
            self._judge(question, data, begin, end)
        elif len(question.refs) == 1 and (status == 404 or (status == 424 and question.route in _ABSENT)):
            self._judge_found(question, Found(question.refs[0], code=404), begin, end)
        else:
            self._tally.fault("wrong", question.route, question.path, question.body, status, data)

    def _judge(self, question: Question, data: bytes, begin: float, end: float) -> None:
        try:
            found = self._work.read(question, _events(data) if question.streamed else orjson.loads(data))
        except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
            self._tally.fault("wrong", question.route, "not the route's form", repr(error), data)
            return
        for one in found:
            self._judge_found(question, one, begin, end)

    def _judge_found(self, question: Question, found: Found, begin: float, end: float) -> None:
        allowed = self._truth.within(found.ref, begin, end)
        if found.code is not None:
            if found.code in REFUSALS:
                self._tally.refused[found.code] += 1
            elif found.code == 404 and None in allowed:
                self._tally.absent += 1
            else:
                self._tally.fault("wrong", question.route, found.ref, f"error {found.code}, not {_short(allowed)}")
            return
        if found.digest is not None and found.digest not in allowed:
            self._tally.fault("wrong", question.route, found.ref, f"by {found.digest[:8]}, not {_short(allowed)}")
            return
        digests = [found.digest] if found.digest else sorted(filter(None, allowed))
        known = [self._references[d][question.text] for d in digests]
        if any(self._work.same(found.what, found.value, reference) for reference in known):
            self._tally.compared += 1
        else:
            self.doubtful.put_nowait((question, found, digests))


def _short(digests: frozenset[str | None]) -> str:
    return ", ".join("nothing" if d is None else d[:8] for d in sorted(digests, key=str))


def _events(data: bytes) -> list[Any]:
    """The JSON of server-sent events. Raises ValueError for a stream that has no end."""
    lines = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    if not lines or lines[-1].strip() != b"[DONE]":
        raise ValueError("the stream ends without [DONE]")
    return [orjson.loads(line) for line in lines[:-1]]
