"""Bodies that were compressed with gzip are unpacked as they are read, a chunk at a time."""

from __future__ import annotations

import asyncio
import zlib

from starlette.types import Message, Receive, Scope

from manyhats.api.middleware.headers import FirstValues, all_values
from manyhats.errors import InvalidRequest, TooLarge, UnsupportedFormat

_CHUNK = 64 << 10  # bytes unpacked between two turns of the event loop
_GZIP = 16 + zlib.MAX_WBITS
_QUOTED = 100  # characters of a header in a message


class UnsupportedEncoding(UnsupportedFormat):
    """A body is packed in another way."""


def is_packed(scope: Scope, headers: FirstValues) -> bool:
    """Whether a body is packed with gzip. Raises UnsupportedEncoding for every other encoding."""
    if b"content-encoding" not in headers:
        return False
    given = ", ".join(all_values(scope, headers, b"content-encoding"))
    encodings = [one for part in given.lower().split(",") if (one := part.strip()) not in ("", "identity")]
    if encodings and encodings not in (["gzip"], ["x-gzip"]):
        raise UnsupportedEncoding(
            f"the body's content encoding is {given[:_QUOTED]!r}; send it plain, or with gzip",
            param="Content-Encoding",
        )
    return bool(encodings)


def unpacked(scope: Scope, receive: Receive, limit: int) -> tuple[Scope, Receive]:
    """The request whose body was packed with gzip as if it had not been.

    No more is unpacked than is asked for, so that whatever counts the bytes behind it can stop at a limit. The packed
    body has the same `limit` in bytes: some of it may unpack to nothing.
    """
    left_out = (b"content-encoding", b"content-length")
    headers = [header for header in scope["headers"] if header[0] not in left_out]
    return {**scope, "headers": headers}, _unpacked(receive, limit)


def _unpacked(receive: Receive, limit: int) -> Receive:
    """The messages of the unpacked body. Raises InvalidRequest for what is no gzip, and TooLarge."""
    inflate = zlib.decompressobj(_GZIP)
    packed = b""  # what has come and is not unpacked yet
    seen = 0
    more = True  # of the packed body is to come
    ended = False

    async def plain() -> Message:
        nonlocal inflate, packed, seen, more, ended
        if ended:
            return await receive()
        while True:
            while more and not packed:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                packed = message.get("body", b"")
                more = message.get("more_body", False)
                seen += len(packed)
                if seen > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes", param="body")
            if inflate.eof and (packed := packed.lstrip(b"\0")):  # another member, behind what may fill a block
                inflate = zlib.decompressobj(_GZIP)
            chunk = b""
            if not inflate.eof:
                try:
                    chunk = inflate.decompress(packed, _CHUNK)
                except zlib.error as error:
                    raise InvalidRequest(f"the body is no gzip: {error}", param="body") from None
                packed = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            last = not more and not packed
            if last and not chunk and not inflate.eof:
                raise InvalidRequest("the body is no gzip: it ends too early", param="body")
            ended = last and inflate.eof
            await asyncio.sleep(0)  # members without content may be many
            if chunk or ended:
                return {"type": "http.request", "body": chunk, "more_body": not ended}

    return plain
