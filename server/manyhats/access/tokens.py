"""Tokens of an identity provider (JWT, as OIDC has them), checked with the keys that it publishes (JWKS).

Only signatures with a private key are taken: with a shared secret, whoever can check a token could make one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread

from manyhats.access.identity import Identity
from manyhats.access.scopes import ALL_SCOPES, check_patterns, task_pattern
from manyhats.core.call import Caller
from manyhats.errors import AuthenticationRequired, ConfigurationError, InvalidRequest, NotReady
from manyhats.settings import Settings

if TYPE_CHECKING:
    from jwt import PyJWK

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_KEY_TYPES = frozenset({"RSA", "EC", "OKP"})
_LONGEST = 8 << 10  # characters of a token
_LEEWAY = 10.0  # seconds that clocks may differ
_KEPT = 300.0  # seconds after which the provider's keys are fetched again
_APART = 30.0  # seconds between two attempts to fetch them, whatever tokens come
_FETCH_TIMEOUT = 5.0  # seconds
_MAX_KEYS = 100


def is_token(text: str) -> bool:
    """Whether a text is written like a token."""
    return text.count(".") == 2


class TokenVerifier:
    """Makes identities of the tokens of the issuer in the settings.

    Raises ConfigurationError where the settings do not go together, or the extra `jwt` is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.jwt_audience or not settings.jwt_jwks:
            missing = "jwt_audience" if not settings.jwt_audience else "jwt_jwks"
            raise ConfigurationError(f"jwt_issuer is set and {missing} is not; tokens need issuer, audience and keys")
        try:
            import jwt
        except ImportError:
            raise ConfigurationError("jwt_issuer needs PyJWT: pip install 'manyhats[jwt]'") from None
        self._jwt = jwt
        self._settings = settings
        self._source = settings.jwt_jwks
        self._keys: dict[str | None, PyJWK] = {}
        self._fetched = self._tried = -1e9  # time.monotonic()
        self._limiter = CapacityLimiter(1)

    async def verify(self, token: str) -> Identity:
        """Whose token it is. Raises AuthenticationRequired that says what is wrong with it."""
        if len(token) > _LONGEST:
            raise AuthenticationRequired(f"the token is longer than {_LONGEST} characters")
        jwt, settings = self._jwt, self._settings
        try:
            head = jwt.get_unverified_header(token)
            if head.get("alg") not in ALGORITHMS:
                raise AuthenticationRequired(
                    f"the token is signed with {str(head.get('alg'))[:20]!r}; taken are {', '.join(ALGORITHMS)}"
                )
            claims = jwt.decode(
                token,
                await self._key(head.get("kid")),
                algorithms=[head["alg"]],
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway=_LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise AuthenticationRequired(f"the token is not valid: {str(error)[:200]}") from None
        return self._identity(claims)

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        settings = self._settings
        scopes = frozenset(_words(claims.get(settings.jwt_scopes_claim))) & ALL_SCOPES
        tenant = str(claims.get(settings.jwt_tenant_claim, ""))[:64]
        pattern = None
        if settings.jwt_tasks_claim:
            tasks = _words(claims.get(settings.jwt_tasks_claim))
            try:
                check_patterns(tasks, "")
            except InvalidRequest as error:
                claim = settings.jwt_tasks_claim
                raise AuthenticationRequired(f"the token's claim '{claim}': {error.message}") from None
            # No pattern fits no task: a name is never empty.
            pattern = task_pattern(tasks or ("",), "")
        caller = Caller(tenant=tenant, key=f"jwt:{str(claims['sub'])[:128]}", tasks=pattern)
        return Identity(caller, scopes, expires=float(claims["exp"]) + _LEEWAY)

    async def _key(self, kid: str | None) -> PyJWK:
        """The provider's key of that id. Fetches them anew where they are old, or none has it, and not too often."""
        now = time.monotonic()
        if (kid not in self._keys or now - self._fetched > _KEPT) and now - self._tried > _APART:
            self._tried = now
            await to_thread.run_sync(self._fetch, limiter=self._limiter)
        if (found := self._keys.get(kid)) is not None:
            return found
        if self._fetched < 0:
            raise NotReady("the keys of the identity provider cannot be read; the server's log says why")
        raise AuthenticationRequired(f"no key of the identity provider has the id {str(kid)[:100]!r}")

    def _fetch(self) -> None:
        """Blocking. The keys before stay where it fails."""
        try:
            if "://" in self._source:
                data = self._jwt.PyJWKClient(self._source, cache_jwk_set=False, timeout=_FETCH_TIMEOUT).fetch_data()
            else:
                data = json.loads(Path(self._source).read_text(encoding="utf-8"))
            found = [one for one in data["keys"][:_MAX_KEYS] if one.get("kty") in _KEY_TYPES]
            usable = [one for one in found if one.get("use", "sig") == "sig"]
            keys = {one.get("kid"): self._jwt.PyJWK.from_dict(one) for one in usable}
        except Exception as error:  # whatever a provider answers
            logger.error("the keys at %s cannot be read: %s", self._source, error)
            return
        self._keys = keys
        self._fetched = time.monotonic()


def _words(value: Any) -> tuple[str, ...]:
    """A claim's texts: a list, or one text with spaces between them."""
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()
