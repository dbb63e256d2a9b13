"""Tokens of an identity provider: signed for real, with the provider's keys served on a loopback address."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from manyhats.access import tokens as module
from manyhats.access.control import AccessControl
from manyhats.access.identity import Identity
from manyhats.errors import AuthenticationRequired, ConfigurationError, NotReady
from manyhats.settings import Settings

ISSUER, AUDIENCE = "https://login.example", "manyhats"
KEYS: dict[str, tuple[str, Any]] = {
    "rsa": ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
    "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
}
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_ALGORITHMS = jwt.algorithms.get_default_algorithms()


def jwks(*names: str) -> dict[str, Any]:
    found = []
    for name in names:
        algorithm, key = KEYS[name]
        made = _ALGORITHMS[algorithm].to_jwk(key.public_key())
        found.append(
            (json.loads(made) if isinstance(made, str) else made) | {"kid": name, "alg": algorithm, "use": "sig"}
        )
    return {"keys": found}


class Provider:
    """Serves public keys. `asked`: how often."""

    def __init__(self) -> None:
        self.body: Any = jwks("rsa", "ec", "ed")
        self.asked = 0
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                content = provider.body if isinstance(provider.body, bytes) else json.dumps(provider.body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/jwks"


@pytest.fixture
def provider() -> Iterator[Provider]:
    one = Provider()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


def control(source: str, tmp_path: Path, **settings: Any) -> AccessControl:
    given = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": source, **settings}
    return AccessControl(Settings(store=tmp_path / "store", **given))


def token(name: str = "rsa", *, key: Any = None, algorithm: str = "", kid: str | None = None, **claims: Any) -> str:
    """A token that holds for a minute; a claim of None is left out."""
    whole = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": time.time() + 60,
        "scope": "openid predict",
        "tenant": "team",
        "tasks": ["team-*"],
    }
    whole = {claim: value for claim, value in (whole | claims).items() if value is not None}
    own_algorithm, own_key = KEYS[name]
    return jwt.encode(whole, key or own_key, algorithm=algorithm or own_algorithm, headers={"kid": kid or name})


def identify(access: AccessControl, *keys: str) -> list[Any]:
    async def main() -> list[Any]:
        found = []
        for key in keys:
            try:
                found.append(await access.identify(f"Bearer {key}".encode()))
            except Exception as error:
                found.append(error)
        return found

    return asyncio.run(main())


def test_tokens_say_who_and_what(provider: Provider, tmp_path: Path) -> None:
    access = control(provider.address, tmp_path)
    for one in identify(access, *(token(name) for name in KEYS)):
        assert isinstance(one, Identity), one
        assert (one.caller.tenant, one.caller.key, one.scopes) == ("team", "jwt:alice", {"predict"})
        assert one.caller.sees("team-a")
        assert not one.caller.sees("other")
        assert not one.caller.sees("base")
    assert provider.asked == 1


def test_claims_by_other_names_and_forms(provider: Provider, tmp_path: Path) -> None:
    names = {"jwt_scopes_claim": "roles", "jwt_tenant_claim": "org", "jwt_tasks_claim": "may"}
    given = token(roles=["predict", "admin", "root"], org="o", may="a-* base")
    (one,) = identify(control(provider.address, tmp_path, **names), given)
    assert (one.caller.tenant, one.scopes) == ("o", {"predict", "admin"})
    assert one.caller.sees("a-1")
    assert one.caller.sees("base")
    assert not one.caller.sees("b")


def test_a_token_without_the_claim_sees_no_task(provider: Provider, tmp_path: Path) -> None:
    (one,) = identify(control(provider.address, tmp_path), token(tasks=None, scope=None))
    assert one.scopes == frozenset()
    assert not any(one.caller.sees(name) for name in ("a", "base", "team-a"))
    (one,) = identify(control(provider.address, tmp_path, jwt_tasks_claim=""), token(tasks=None))
    assert one.caller.tasks is None


def forged() -> dict[str, tuple[str, str]]:
    """Tokens that must not be taken, and what is said of them."""
    public = json.dumps(jwks("rsa")["keys"][0])
    head, body, sign = token().split(".")
    other = json.loads(base64.urlsafe_b64decode(body + "==")) | {"scope": "admin"}
    changed = base64.urlsafe_b64encode(json.dumps(other).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').decode().rstrip("=")
    return {
        "expired": (token(exp=time.time() - 60), "expired"),
        "without an end": (token(exp=None), "exp"),
        "not yet": (token(nbf=time.time() + 600), "not yet valid"),
        "another issuer": (token(iss="https://evil.example"), "issuer"),
        "another audience": (token(aud="other"), "[Aa]udience"),
        "of nobody": (token(sub=None), "sub"),
        "another's key": (token(key=STRANGER), "[Ss]ignature"),
        "an unknown key": (token(kid="nobody"), "'nobody'"),
        "a shared secret": (token(key=public * 2, algorithm="HS256"), "'HS256'"),
        "no signature": (f"{none}.{body}.", "'none'"),
        "another algorithm": (token("rsa", kid="ec"), "."),
        "changed": (f"{head}.{changed}.{sign}", "[Ss]ignature"),
        "strange patterns": (token(tasks=["a/b"]), "no pattern"),
        "nothing": ("a.b.c", "not valid"),
        "too long": (token(more="x" * 9000), "longer"),
    }


@pytest.mark.parametrize("name", sorted(forged()))
def test_what_is_not_taken(provider: Provider, tmp_path: Path, name: str) -> None:
    text, says = forged()[name]
    (found,) = identify(control(provider.address, tmp_path), text)
    assert isinstance(found, AuthenticationRequired), found
    import re

    assert re.search(says, found.message), found.message


def test_keys_from_a_file_and_only_public_ones(tmp_path: Path) -> None:
    secret = base64.urlsafe_b64encode(b"s" * 64).decode().rstrip("=")
    keys = jwks("ec")["keys"] + [{"kty": "oct", "kid": "shared", "k": secret, "alg": "HS256"}]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
    access = control(str(tmp_path / "jwks.json"), tmp_path)
    good, shared = identify(access, token("ec"), token(key=b"s" * 64, algorithm="HS256", kid="shared"))
    assert isinstance(good, Identity)
    assert isinstance(shared, AuthenticationRequired)


def test_the_provider_s_keys_are_fetched_anew_but_not_for_every_token(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.body = jwks("rsa")
    access = control(provider.address, tmp_path)
    assert isinstance(identify(access, token())[0], Identity)
    unknown = identify(access, *(token(kid=f"k{i}") for i in range(5)))
    assert all(isinstance(one, AuthenticationRequired) for one in unknown)
    assert provider.asked == 1
    provider.body = jwks("ec")  # the provider has changed its key
    monkeypatch.setattr(module, "_APART", 0.0)
    assert isinstance(identify(access, token("ec"))[0], Identity)
    assert provider.asked == 2
    assert isinstance(identify(access, token(jti="new"))[0], AuthenticationRequired)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"keys": 1}', b'{"keys": [{"kty": "RSA", "kid": "rsa"}]}'])
def test_a_provider_that_answers_nonsense(
    provider: Provider, tmp_path: Path, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    provider.body = body
    access = control(provider.address, tmp_path)
    found = identify(access, token(), token(jti="2"))
    assert all(isinstance(one, NotReady) for one in found), found
    assert provider.asked == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def test_settings_that_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("jwt_audience", "jwt_jwks"):
        with pytest.raises(ConfigurationError, match=missing):
            control("x", tmp_path, **{missing: ""})
    import sys

    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'manyhats\[jwt\]'"):
        control("x", tmp_path)
