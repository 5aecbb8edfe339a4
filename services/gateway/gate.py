"""What every HTTP request passes before a route sees it: strangers out, bodies bounded, the caller known, all counted.

While no API keys are configured, only this machine is served, with any key or none. A web page in a browser on this
machine could still reach us then, so a foreign Host or Origin is refused, and any POST that is not JSON (a form could
send one without asking) but the official client's body-less save.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moontune.auth.audit import AuditEntry, AuditLog
from moontune.auth.authenticator import Authenticator, KeyLookup
from moontune.auth.context import current_principal, set_principal
from moontune.auth.limits import KeyLimiter
from moontune.errors import MoontuneError, PermissionDenied
from moontune.telemetry import names
from moontune.telemetry.metrics import ServiceMetrics
from moontune.values.principal import Principal
from moontune.values.principal import Scope as KeyScope
from services.gateway.errors import error_response, from_moontune

KEY_HEADER = "x-moondream-auth"
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
PUBLIC_PATHS = ("/health", "/docs", "/openapi.json")
PUBLIC_PREFIXES = ("/v1/downloads/",)
"""Signed links carry their own right."""
_KEYS_CACHE_S = 5.0
BODY_GRACE_S = 30.0
SLOWEST_BODY_BYTES_PER_S = 16 * 1024
STRANGER = Principal("", frozenset())
"""Who is calling before that is known."""


class BodyLimits:
    """Most bytes of a body by path."""

    def __init__(self, usual: int, train_step: int) -> None:
        self._usual = usual
        self._train_step = train_step

    def of(self, path: str) -> int:
        """The limit of one path."""
        return self._train_step if path.endswith("/train_step") else self._usual


class Gate:
    """ASGI middleware around the application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator,
        keys: KeyLookup | None,
        limits: BodyLimits,
        allowed_hosts: Sequence[str],
        metrics: ServiceMetrics,
        audit: AuditLog | None = None,
    ) -> None:
        """keys: None where no key database is set. allowed_hosts: beside loopback, while no keys are configured."""
        self._app = app
        self._authenticator = authenticator
        self._keys = keys
        self._limits = limits
        self._hosts = frozenset((*LOOPBACK_NAMES, *allowed_hosts))
        self._metrics = metrics
        self._audit = audit
        self._limiter = KeyLimiter()
        self._open_until: tuple[float, bool] = (0.0, keys is None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = [0], time.perf_counter()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self._admit(scope, receive, counted)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE") else "other"
            self._metrics.counter(names.HTTP_REQUESTS, method=method, route=route, status=str(status[0])).inc()
            self._metrics.histogram(names.HTTP_SECONDS, method=method, route=route).observe(
                time.perf_counter() - started
            )
            self._note(scope, status[0])

    def _note(self, scope: Scope, status: int) -> None:
        """Record what was changed, and who was refused."""
        refused = status in (401, 403, 429)
        if self._audit is None or not (refused or (scope["method"] != "GET" and not _is_public(scope["path"]))):
            return
        caller = current_principal()
        organisation = caller.organisation if caller.key_id else ""
        action = f"{scope['method'][:16]} {scope['path']}"
        self._audit.note(AuditEntry(organisation, caller.key_id, action, str(status), _peer(scope)))

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        set_principal(STRANGER)
        async with AsyncExitStack() as admitted:
            limit = await self._check(scope, headers, admitted, receive, send)
            if limit is not None:
                await self._app(scope, _bounded(receive, limit), send)

    async def _check(
        self, scope: Scope, headers: Headers, admitted: AsyncExitStack, receive: Receive, send: Send
    ) -> int | None:
        """Most bytes of the body; None where the request was refused, and the refusal sent."""
        try:
            if await self._no_keys():
                self._check_browser(headers)
            self._check_json(scope, headers)
            limit = self._limits.of(scope["path"])
            if _content_length(headers) > limit:
                raise _TooLarge(limit)
            if not _is_public(scope["path"]):
                principal = await self._authenticator.authenticate(_metadata(headers), _peer(scope))
                set_principal(principal)
                _require(principal, scope["method"], scope["path"])
                await admitted.enter_async_context(self._limiter.admitted(principal))
        except MoontuneError as error:
            await from_moontune(error)(scope, receive, send)
            return None
        except _TooLarge as error:
            response = error_response(413, "invalid_request_error", error.detail, code="REQUEST_TOO_LARGE")
            await response(scope, receive, send)
            return None
        except _Refused as error:
            response = error_response(error.status, "invalid_request_error", error.message, code=error.code)
            await response(scope, receive, send)
            return None
        return limit

    async def _no_keys(self) -> bool:
        """Whether no key was ever made; once one was, it stays closed."""
        until, is_open = self._open_until
        if self._keys is None or (not is_open and until):
            return is_open
        if time.monotonic() >= until:
            is_open = not await asyncio.to_thread(self._keys.any)
            self._open_until = (time.monotonic() + _KEYS_CACHE_S, is_open)
        return is_open

    def _check_browser(self, headers: Headers) -> None:
        host = _host_name(headers.get("host", ""))
        if host not in self._hosts:
            raise PermissionDenied(
                f"Host is {host[:80]!r}; while no API keys are configured only loopback names are served: make a key, "
                "or list the name in allowed_hosts"
            )
        origin = headers.get("origin")
        if origin is not None and (urlsplit(origin).hostname or "") not in self._hosts:
            raise PermissionDenied(
                f"Origin {origin[:80]!r} is not this machine; make an API key to be called from there"
            )

    def _check_json(self, scope: Scope, headers: Headers) -> None:
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        bodyless = _content_length(headers) == 0 and "transfer-encoding" not in headers
        if kind == "application/json" or (not kind and bodyless and scope["path"].endswith("/checkpoints/save")):
            return
        given = kind or "missing"
        raise _Refused(415, "UNSUPPORTED_MEDIA_TYPE", f"Content-Type is {given[:80]}; allowed: application/json")


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _TooLarge(HTTPException):
    """Also raised while a body without a length is read; the framework lets it pass to its handler."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is too large; allowed: at most {limit} bytes")


class _TooSlow(HTTPException):
    """A body that drips. Not 408: the client would send it again, as slowly."""

    def __init__(self) -> None:
        allowed = f"{BODY_GRACE_S:.0f} s and then {SLOWEST_BODY_BYTES_PER_S} bytes a second"
        super().__init__(400, f"the body comes too slowly; allowed: {allowed}", {"Connection": "close"})


def _bounded(receive: Receive, limit: int) -> Receive:
    """Count the body as it comes, for those that do not announce its length, and time it, for those that drip."""
    seen, whole, started = 0, False, time.monotonic()

    async def bounded() -> Message:
        nonlocal seen, whole
        if whole:  # what still can come is the caller's leaving
            return await receive()
        left_s = started + BODY_GRACE_S + seen / SLOWEST_BODY_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(left_s):
                message = await receive()
        except TimeoutError:
            raise _TooSlow from None
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen > limit:
                raise _TooLarge(limit)
        return message

    return bounded


def _content_length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _metadata(headers: Headers) -> Mapping[str, str]:
    """The key that the caller sent, as the authenticator reads it.

    Nothing else is passed on: what our services show each other is never taken from the outside.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        key = headers.get(KEY_HEADER, "")
    return {"authorization": f"Bearer {key.strip()}"} if key.strip() else {}


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    if client is None:
        return ""
    host = str(client[0])
    return f"ipv6:[{host}]:{client[1]}" if ":" in host else f"ipv4:{host}:{client[1]}"


def _host_name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "") if "@" not in host else ""


def _require(principal: Principal, method: str, path: str) -> None:
    """Reading needs `read`, the tuning API `train`, everything else `infer`; `admin` may do all."""
    changing = KeyScope.TRAIN if path.startswith("/v1/tuning") else KeyScope.INFER
    needed = KeyScope.READ if method == "GET" else changing
    if not {needed, KeyScope.ADMIN} & principal.scopes:
        held = ", ".join(sorted(principal.scopes)) or "none"
        raise PermissionDenied(f"{method} {path} needs the scope {needed}; this key holds: {held}")
