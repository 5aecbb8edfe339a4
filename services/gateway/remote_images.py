"""Images behind http(s) URLs: refused unless their host is allowed, and then fetched without being a door inwards.

The name is resolved here, every address it has must be public, and the connection goes to one of exactly these
addresses: a name that resolves to something else a moment later (DNS rebinding) changes nothing. Redirects are not
followed, no header of the caller's travels, and size, time and ports are bounded.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import httpcore

from moontune.errors import ImageInvalid, ImageTooLarge, InvalidField

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
ANY_HOST = "*"
PORTS = (80, 443)
TIMEOUT_S = 10.0
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether an address is on the open internet: not private, loopback, link-local, reserved or multicast.

    An IPv6 address that carries an IPv4 one (mapped, 6to4, Teredo, NAT64) counts as that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        teredo = address.teredo
        inner = address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def allowed_addresses(networks: Sequence[Network]) -> Callable[[Address], bool]:
    """Which addresses may be connected to: public ones, and those of the operator's own networks."""
    own = tuple(networks)
    return lambda address: is_public(address) or any(address in network for network in own)


class PrivateAddress(Exception):
    """A host name has an address that may not be connected to."""


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that `allowed` lets through, and to nothing else."""

    def __init__(self, allowed: Callable[[Address], bool] = is_public) -> None:
        self._allowed = allowed
        self._network = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (the interface's name)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve once, check every address, connect to the first."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} has no address") from error
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise PrivateAddress(host)
        return await self._network.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise PrivateAddress("unix socket")

    async def sleep(self, seconds: float) -> None:
        """Wait between tries."""
        await asyncio.sleep(seconds)


class RemoteImages:
    """Fetches images from the hosts that an operator allows."""

    def __init__(
        self,
        hosts: Sequence[str],
        most_bytes: int,
        network: httpcore.AsyncNetworkBackend | None = None,
        ports: Sequence[int] = PORTS,
    ) -> None:
        """hosts: names, or ANY_HOST for every public one; empty refuses all. network: of the connections."""
        self._hosts = frozenset(host.lower() for host in hosts)
        self._most_bytes = most_bytes
        self._ports = tuple(ports)
        self._pool = httpcore.AsyncConnectionPool(
            network_backend=network or GuardedNetwork(), max_connections=32, max_keepalive_connections=0, retries=0
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._pool.aclose()

    async def fetch(self, url: str, field: str) -> bytes:
        """The bytes behind a URL; whether they are an image is for the caller to see.

        Raises:
            InvalidField: a host, port or form that is not allowed. ImageTooLarge: more bytes than the limit.
            ImageInvalid: the host did not answer 200 in time.
        """
        self._check(url, field)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._read(url, field)
        except PrivateAddress:
            allowed = "a host all of whose addresses are public, or in the setting image_networks"
            raise InvalidField.of(field, _shown(url), allowed) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, TimeoutError) as error:
            reason = f"a URL that answers within {TIMEOUT_S:.0f} s ({type(error).__name__})"
            raise ImageInvalid.of(field, _shown(url), reason) from None

    async def _read(self, url: str, field: str) -> bytes:
        headers = [("Host", urlsplit(url).netloc), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        async with self._pool.stream("GET", url, headers=headers) as response:
            if response.status != 200:
                told = f"a URL that answers 200, not {response.status}; redirects are not followed"
                raise ImageInvalid.of(field, _shown(url), told)
            data = bytearray()
            async for piece in response.aiter_stream():
                data += piece
                if len(data) > self._most_bytes:
                    allowed = f"at most {self._most_bytes} bytes"
                    raise ImageTooLarge.of(field, f"more than {self._most_bytes} bytes behind the URL", allowed)
            return bytes(data)

    def _check(self, url: str, field: str) -> None:
        if not self._hosts:
            allowed = "a data URL (data:image/jpeg;base64,...); http(s) URLs are not fetched"
            raise InvalidField.of(field, _shown(url), allowed)
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise InvalidField.of(field, _shown(url), "a data URL or an http(s) URL") from None
        if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable():
            raise InvalidField.of(field, _shown(url), "a data URL or an http(s) URL of printable ASCII")
        if parts.username is not None or parts.password is not None or port not in self._ports:
            ports = " or ".join(map(str, self._ports))
            raise InvalidField.of(field, _shown(url), f"an http(s) URL without user name, on port {ports}")
        if ANY_HOST not in self._hosts and host not in self._hosts:
            raise InvalidField.of(field, _shown(url), "a host that the setting image_hosts lists")


def _shown(url: str) -> str:
    return url[:60]
