"""Where a server is to fetch an adapter from, written as one address."""

from __future__ import annotations

HUB, S3, FOLDER = "hf://", "s3://", "file://"


def source_of(address: str) -> dict[str, str]:
    """What an address means: `hf://owner/name@revision`, `s3://bucket/prefix`, `file:///folder`.

    Raises ValueError for anything else.
    """
    if address.startswith(HUB):
        name, _, revision = address.removeprefix(HUB).partition("@")
        if name:
            return {"hub": name, **({"revision": revision} if revision else {})}
    if address.startswith(S3) and len(address) > len(S3):
        return {"s3": address}
    if address.startswith(f"{FOLDER}/"):
        return {"folder": address.removeprefix(FOLDER)}
    raise ValueError(
        f"{address!r} is no source; write hf://owner/name@revision, s3://bucket/prefix or file:///folder/of/the/server"
    )


def is_source(address: str) -> bool:
    """Whether an address begins as one of a source does."""
    return address.startswith((HUB, S3, FOLDER))
