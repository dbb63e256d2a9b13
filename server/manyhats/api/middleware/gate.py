"""What every request passes before its route: looks through the headers once, and wraps what has to be wrapped."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from manyhats.api.errors import response
from manyhats.api.middleware.body_limit import BodyLimit
from manyhats.api.middleware.content import check_content_type, has_json_body, is_upload, without_mark
from manyhats.api.middleware.cors import Cors
from manyhats.api.middleware.encoding import UnsupportedEncoding, is_packed, unpacked
from manyhats.api.middleware.headers import FirstValues, first_values
from manyhats.api.middleware.hosts import AllowedHosts
from manyhats.api.middleware.origins import SameOrigin
from manyhats.api.middleware.paths import headers_alone, lenient_path
from manyhats.api.middleware.request_id import request_id, with_request_id
from manyhats.core.call import CURRENT_CALL, Call
from manyhats.errors import ManyhatsError


class Gate:
    """Gives each request its id, and refuses what may not pass.

    In this order: an unknown host, a page of another site, an encoding, a type or a length of the body.

    `hosts`: the names of this server, None for any. `origins`: whose pages may ask. `json_limit`, `upload_limit`: bytes
    of a body.
    """

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str] | None, origins: Sequence[str], json_limit: int, upload_limit: int
    ) -> None:
        self._app = app
        self._hosts = AllowedHosts(hosts)
        self._same_origin = SameOrigin(origins)
        self._json = BodyLimit(json_limit, held=True)
        self._uploads = BodyLimit(upload_limit, held=False)
        # Its answers have an id too, and it answers for any host.
        self._cors = Cors(self._without_cors, origins=origins) if origins else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = first_values(scope)
        given = request_id(headers)
        scope.setdefault("state", {})["request_id"] = given
        CURRENT_CALL.set(Call(given, headers=headers))
        send = with_request_id(send, given)
        if self._cors is not None:
            await self._cors(scope, receive, send)
        else:
            await self._check(scope, headers, receive, send)

    async def _without_cors(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._check(scope, first_values(scope), receive, send)

    async def _check(self, scope: Scope, headers: FirstValues, receive: Receive, send: Send) -> None:
        try:
            self._hosts.check(scope, headers)
            self._same_origin.check(scope, headers)
            if (path := lenient_path(scope["path"])) != scope["path"]:
                scope = {**scope, "path": path}
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
        except ManyhatsError as error:
            await _refusal(error)(scope, receive, send)
            return
        body = limit.counted(receive)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()


def _refusal(error: ManyhatsError) -> Response:
    answer = response(error)
    if isinstance(error, UnsupportedEncoding):
        answer.headers["Accept-Encoding"] = "gzip"
    return answer
