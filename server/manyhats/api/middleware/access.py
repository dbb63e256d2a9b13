"""Whose key a request has, before its route: the route then says whether that is enough."""

from __future__ import annotations

from starlette.types import Message, Scope, Send

from manyhats.access.control import AccessControl
from manyhats.access.quotas import Quotas
from manyhats.api.auth import IDENTITY, REFUSAL
from manyhats.api.middleware.headers import FirstValues
from manyhats.core.call import Call
from manyhats.errors import ManyhatsError


async def identify(access: AccessControl, scope: Scope, headers: FirstValues, call: Call, send: Send) -> Send:
    """Notes who sends a request, or why it is refused, for its route; and gives what sends the answer."""
    state = scope["state"]
    try:
        identity = await access.identify(headers.get(b"authorization"))
        state[IDENTITY] = identity
        call.caller = identity.caller
        quotas = identity.quotas
        if quotas is None:
            return send
        send = _with_quotas(send, quotas)
        quotas.take()
        call.spend = quotas.spend
    except ManyhatsError as error:
        state[REFUSAL] = error
    return send


def _with_quotas(send: Send, quotas: Quotas) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *quotas.headers()]
        await send(message)

    return sent
