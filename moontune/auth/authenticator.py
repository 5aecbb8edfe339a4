"""Turns a call's metadata and peer into a principal.

An internal token, when sent, must be right. Else, with keys configured, a known key is needed. Without keys only
callers on this machine are let in, with any key or none, as the organisation `local`.
"""

import asyncio
import ipaddress
import time
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import unquote

from moontune.auth import internal_token
from moontune.errors import Unauthenticated
from moontune.values.principal import LOCAL_PRINCIPAL, Principal

KEY_HEADER = "x-moontune-auth"
CACHE_S = 5.0
"""How long a looked-up key is trusted; a revoked key stops working within this time."""


class KeyLookup(Protocol):
    """Where keys are kept (`moontune.auth.keys.KeyStore`)."""

    def any(self) -> bool:
        """Whether a key was ever made."""
        ...

    def lookup(self, secret: str) -> Principal | None:
        """The principal of a key that is not revoked."""
        ...


class Authenticator:
    """Decides who a caller is. keys: None where no key database is set."""

    def __init__(self, keys: KeyLookup | None = None, token: str | None = None, cache_s: float = CACHE_S) -> None:
        self._keys = keys
        self._token = token
        self._cache_s = cache_s
        self._known: dict[str, tuple[float, Principal | None]] = {}
        self._any: tuple[float, bool] = (0.0, False)

    async def authenticate(self, metadata: Mapping[str, str], peer: str) -> Principal:
        """The caller's principal. metadata: lower-case names. peer: as gRPC writes it ("ipv4:127.0.0.1:5").

        Raises:
            Unauthenticated: what is missing or wrong, never the key itself.
        """
        if (token := metadata.get(internal_token.TOKEN_HEADER)) is not None:
            if self._token is None:  # letting it in as a local caller would file its rows under the wrong organisation
                raise Unauthenticated("this service has no internal_token set; give it the one that its callers have")
            organisation = metadata.get(internal_token.ORGANISATION_HEADER, "")
            quota = metadata.get(internal_token.STORAGE_HEADER, "")
            return internal_token.verify(self._token, token, organisation, quota=quota)
        if self._keys is None or not await self._any_key(self._keys):
            if is_loopback(peer):
                return LOCAL_PRINCIPAL
            raise Unauthenticated("no API keys are configured, so only callers on this machine are let in")
        secret = bearer(metadata)
        if not secret:
            raise Unauthenticated(f"send an API key as `authorization: Bearer <key>` or `{KEY_HEADER}: <key>`")
        principal = await self._lookup(self._keys, secret)
        if principal is None:
            raise Unauthenticated("this API key is not known or was revoked")
        return principal

    async def _any_key(self, keys: KeyLookup) -> bool:
        until, known = self._any
        if known:
            return True  # keys are never deleted, only revoked: once closed, it stays closed
        if time.monotonic() >= until:
            self._any = (time.monotonic() + self._cache_s, await asyncio.to_thread(keys.any))
        return self._any[1]

    async def _lookup(self, keys: KeyLookup, secret: str) -> Principal | None:
        now = time.monotonic()
        until, principal = self._known.get(secret, (0.0, None))
        if now >= until:
            principal = await asyncio.to_thread(keys.lookup, secret)
            if len(self._known) >= 4096:
                self._known.clear()
            self._known[secret] = (now + self._cache_s, principal)
        return principal


def bearer(metadata: Mapping[str, str]) -> str:
    """The key that the caller sent; "" for none."""
    scheme, _, credentials = metadata.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    return metadata.get(KEY_HEADER, "").strip()


def is_loopback(peer: str) -> bool:
    """Whether a gRPC peer ("ipv4:127.0.0.1:5", "ipv6:[::1]:5", "unix:...") is on this machine."""
    kind, _, address = unquote(peer).partition(":")
    if kind in ("unix", "unix-abstract"):
        return True
    try:
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
    except ValueError:
        return False
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return (mapped or host).is_loopback
