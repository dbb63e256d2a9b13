"""What each adapter answers alone: another server, which is asked one question at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from soak.decoder import DecoderWork, agrees_where_near, near_ties
from soak.material import Piece
from soak.questions import Found, Question, Work


@dataclass(frozen=True, slots=True)
class Reference:
    """`digests`: of pieces by name; `answers`: by digest and text; `alike`: pairs of adapters of a kind that cannot be
    told apart by any text, so that one could answer for the other unseen."""

    digests: dict[str, str]
    answers: dict[str, dict[int, dict[str, Any]]]
    alike: int
    pairs: int


async def compute(session: aiohttp.ClientSession, work: Work, pieces: Sequence[Piece]) -> Reference:
    """Uploads every piece as a task of its name, and asks it every text. Raises ValueError for what does not answer."""
    digests, answers = {}, {}
    kinds: dict[str, list[str]] = defaultdict(list)
    for piece in pieces:
        form = aiohttp.FormData()
        for name, data in piece.parts():
            form.add_field("files", data, filename=name)
        uploaded = await _json(session.post(f"/v1/tasks/{piece.name}/versions", data=form))
        digests[piece.name] = digest = uploaded["sha256"]
        answers[digest] = {}
        for text in range(work.texts):
            question = work.alone(piece.name, piece.kind, text)
            body = await _json(session.post(question.path, json=question.body))
            answers[digest][text] = work.reference(piece.kind, body)
        kinds[piece.kind].append(digest)
    pairs = [pair for alike in kinds.values() for pair in itertools.combinations(alike, 2)]
    alike = sum(_alike(work, answers[one], answers[other]) for one, other in pairs)
    return Reference(digests, answers, alike, len(pairs))


def _alike(work: Work, one: dict[int, dict[str, Any]], other: dict[int, dict[str, Any]]) -> bool:
    return all(work.same(what, value, other[text]) for text, parts in one.items() for what, value in parts.items())


async def is_near_tie(
    session: aiohttp.ClientSession,
    reference: Reference,
    work: Work,
    question: Question,
    found: Found,
    digests: list[str],
) -> bool:
    """Whether an answer that differs from its reference differs only where two tokens were as likely: found by asking
    alone, with the log probabilities, or with a temperature that is very little higher or lower."""
    if not isinstance(work, DecoderWork):
        return False
    names = {digest: name for name, digest in reference.digests.items()}
    for digest in digests:
        alone = work.alone(names[digest], "generate", question.text)
        moved = near_ties(question.text)
        for parameters in moved:
            body = await _json(session.post(alone.path, json=alone.body | {"parameters": parameters}))
            if work.same(found.what, found.value, work.reference("generate", body)):
                return True
        if not moved:
            asked = alone.body["parameters"] | {"logprobs": 5}
            body = await _json(session.post(alone.path, json=alone.body | {"parameters": asked}))
            logprobs = body["outputs"][0]["logprobs"]
            if agrees_where_near(found.value, reference.answers[digest][question.text], logprobs):
                return True
    return False


async def _json(call: Any) -> Any:
    async with call as response:
        data = await response.read()
        if response.status not in (200, 201):
            raise ValueError(f"{response.method} {response.url.path}: {response.status} {data[:500]!r}")
        return await response.json()


async def settle(
    session: aiohttp.ClientSession,
    reference: Reference,
    work: Work,
    doubtful: asyncio.Queue[tuple[Question, Found, list[str]]],
    tally: Any,
) -> None:
    """Looks at all doubtful answers, one after another: near ties, or wrong."""
    while not doubtful.empty():
        question, found, digests = doubtful.get_nowait()
        if await is_near_tie(session, reference, work, question, found, digests):
            tally.near_ties += 1
            tally.compared += 1
            continue
        wanted = [reference.answers[digest][question.text].get(found.what) for digest in digests]
        tally.fault("wrong", question.route, found.ref, question.body, f"found {found.value}", f"alone {wanted}")
