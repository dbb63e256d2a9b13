"""What a request brings with it reaches whatever runs for it."""

import asyncio

import httpx
from anyio import to_thread
from manyhats.api.middleware.gate import Gate
from manyhats.core.call import CURRENT_CALL, NO_CALL, Call, Caller
from starlette.responses import PlainTextResponse

from tests.api.middleware.asgi import no_keys


def test_outside_of_a_request_there_is_no_call():
    assert CURRENT_CALL.get() is NO_CALL


def test_each_request_has_its_own_call_in_threads_too():
    async def app(scope, receive, send):
        async def begun():
            CURRENT_CALL.set(Call(CURRENT_CALL.get().id, Caller("a tenant")))

        await asyncio.create_task(begun())  # a task of its own: what it begins is not this one's
        told = await to_thread.run_sync(lambda: CURRENT_CALL.get().id + "/" + CURRENT_CALL.get().caller.tenant)
        await PlainTextResponse(told)(scope, receive, send)

    gate = Gate(app, access=no_keys(), hosts=None, origins=(), json_limit=100, upload_limit=100)

    async def asked() -> list[str]:
        transport = httpx.ASGITransport(gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            ids = [f"id-{i}" for i in range(8)]
            answers = await asyncio.gather(*(client.get("/", headers={"X-Request-Id": one}) for one in ids))
            return [answer.text for answer in answers]

    assert asyncio.run(asked()) == [f"id-{i}/" for i in range(8)]
    assert CURRENT_CALL.get() is NO_CALL
