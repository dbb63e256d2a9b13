"""What every request passes before its route: looks through the headers once, and wraps what has to be wrapped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from manyhats.access.control import AccessControl
from manyhats.api.clients import client_of
from manyhats.api.disconnect import ClientDisconnected
from manyhats.api.errors import response
from manyhats.api.middleware.access import identify
from manyhats.api.middleware.body_limit import BodyLimit
from manyhats.api.middleware.content import check_content_type, has_json_body, is_upload, without_mark
from manyhats.api.middleware.cors import Cors
from manyhats.api.middleware.deadline import KEY as TIMEOUT
from manyhats.api.middleware.deadline import limit_by_header
from manyhats.api.middleware.encoding import UnsupportedEncoding, is_packed, unpacked
from manyhats.api.middleware.headers import FirstValues, first_values
from manyhats.api.middleware.hosts import AllowedHosts
from manyhats.api.middleware.in_turn import cost_of, wait_for_turn
from manyhats.api.middleware.origins import SameOrigin
from manyhats.api.middleware.paths import headers_alone, lenient_path
from manyhats.api.middleware.request_id import request_id, with_request_id
from manyhats.api.observer import Observer
from manyhats.api.turns import Turns
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.errors import DeadlineExceeded, ManyhatsError
from manyhats.serving.http_metrics import HttpMetrics

_ANY = 1 << 30  # inputs of one client under way


class Gate:
    """Gives each request its id, and refuses what may not pass.

    In this order: an unknown host, a page of another site, what comes too late, an encoding, a type or a length of the
    body. Who sends it is noted for its route, which says whether they may.

    `access`: knows whose keys are whose. `hosts`: the names of this server, None for any. `origins`: whose pages may
    ask. `json_limit`, `upload_limit`: bytes of a body. `turns`: whose request is begun next; None: any. `timeout`: the
    most seconds until an answer. `check_open` raises for a path that is not open now. `observer`: is told of each
    request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        access: AccessControl,
        hosts: Sequence[str] | None,
        origins: Sequence[str],
        json_limit: int,
        upload_limit: int,
        turns: Turns | None = None,
        timeout: float = 60.0,
        check_open: Callable[[str], object] = lambda path: None,
        observer: Observer | None = None,
    ) -> None:
        self._app = app
        self._access = access
        self._observer = observer or Observer(HttpMetrics(), None, with_texts=False)
        self._turns = turns or Turns(lambda: _ANY)
        self.timeout = timeout
        self._check_open = check_open
        self._same_origin = SameOrigin(origins)
        self._json = BodyLimit(json_limit, held=True)
        self._uploads = BodyLimit(upload_limit, held=False)
        self.use(hosts, json_limit, upload_limit)
        # Its answers have an id too, and it answers for any host.
        self._cors = Cors(self._without_cors, origins=origins) if origins else None

    def use(self, hosts: Sequence[str] | None, json_limit: int, upload_limit: int) -> None:
        """Has these hosts and limits, as they are given first, from now on."""
        self._hosts = AllowedHosts(hosts)
        self._json.limit = json_limit
        self._uploads.limit = upload_limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.monotonic()
        headers = first_values(scope)
        call = Call(request_id(headers), headers=headers, client=client_of(scope.get("client")))
        self._observer.begun(call)
        state = scope.setdefault("state", {})
        state["request_id"], state["call"] = call.id, call
        CURRENT_CALL.set(call)
        send = with_request_id(send, call)
        try:
            if self._cors is not None:
                await self._cors(scope, receive, send)
            else:
                await self._check(scope, headers, receive, send)
        finally:
            self._observer.ended(call, scope, headers, begin)

    async def _without_cors(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._check(scope, first_values(scope), receive, send)

    async def _check(self, scope: Scope, headers: FirstValues, receive: Receive, send: Send) -> None:
        received = time.monotonic()
        call = CURRENT_CALL.get()
        try:
            self._hosts.check(scope, headers)
            self._same_origin.check(scope, headers)
            send = await identify(self._access, scope, headers, call, send)
            if (path := lenient_path(scope["path"])) != scope["path"]:
                scope = {**scope, "path": path}
            self._check_open(path)
            if scope["method"] == "HEAD":
                scope, send = {**scope, "method": "GET"}, headers_alone(send)
            limit = self._uploads if is_upload(scope) else self._json
            if is_packed(scope, headers):
                scope, receive = unpacked(scope, receive, limit.limit)
                headers = first_values(scope)
            if has_json_body(scope):
                check_content_type(scope, headers)
                receive = without_mark(receive)
            limit.check(headers)
            if (given := headers.get(TIMEOUT)) is not None:
                limit_by_header(call, given, received)
        except ManyhatsError as error:
            await _refusal(error)(scope, receive, send)
            return
        body = limit.counted(receive, call.flow)
        turn = self._turns.ask(
            call.flow, scope["path"], cost_of(scope, headers), counts=scope["method"] not in ("GET", "HEAD")
        )
        try:
            if not turn.begun:
                call.limit(received + self.timeout)
                try:
                    await wait_for_turn(self._turns, turn, call, scope)
                except DeadlineExceeded as error:
                    await _refusal(error)(scope, receive, send)
                    return
                except ClientDisconnected:  # nobody reads an answer
                    return
            await self._app(scope, body.receive, send)
        finally:
            body.release()
            self._turns.end(turn)
            if (route := scope.get("route")) is not None:
                scope["state"]["call"].route = route.path


def _refusal(error: ManyhatsError) -> Response:
    answer = response(error)
    if isinstance(error, UnsupportedEncoding):
        answer.headers["Accept-Encoding"] = "gzip"
    return answer
