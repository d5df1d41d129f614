"""Connections to public addresses only: a name is resolved, its addresses are checked, a checked one is connected to.

A name that points into a private network would make us carry data and credentials to a machine that whoever controls
the name has chosen (a router, a cloud's metadata service). Checking first and connecting by name later would not help:
the second look-up may answer differently. TLS still verifies the name.

Loopback that is written literally (`127.0.0.1`, `[::1]`, `localhost`) is meant, and always allowed.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from dbt_segments.errors import DestinationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], list[str]]
"""The addresses of a name, as texts; raises OSError where there are none."""

# As httpx's own transport.
KEPT_CONNECTIONS = 32
KEPT_S = 5.0

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Public by the registry's word, or by that of older Python versions, but a cloud's own: Azure's host agent, Oracle's
# metadata. Those of other clouds are link-local or private.
_METADATA = (ipaddress.IPv4Network("168.63.129.16/32"), ipaddress.IPv4Network("192.0.0.0/24"))


def is_public(address: Address) -> bool:
    """Whether an address is reachable over the internet; of an IPv6 address that wraps an IPv4 one, whether that is."""
    inner = _wrapped(address)
    if inner is not None:
        return is_public(inner)
    clouds_own = any(address in network for network in _METADATA)
    return address.is_global and not (address.is_multicast or address.is_reserved or clouds_own)


def _wrapped(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def is_loopback(host: str) -> bool:
    """Whether a host is loopback by its very name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def resolve(host: str, port: int) -> list[str]:
    """The operating system's answer, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


class CheckedBackend(httpcore.NetworkBackend):
    """Opens connections to public addresses, and to loopback where it is written literally.

    look_up  the resolver
    network  opens the connection to an address
    """

    def __init__(self, look_up: Resolve = resolve, network: httpcore.NetworkBackend | None = None) -> None:
        self._look_up = look_up
        self._network = network or httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first checked address that takes one, all tries within `timeout` seconds.

        Raises DestinationError where every address is private, httpcore.ConnectError where there is none.
        """
        ends_at = None if timeout is None else time.monotonic() + timeout
        failure: Exception = httpcore.ConnectTimeout("no time left")
        for address in self._checked(host, port):
            left = None if ends_at is None else ends_at - time.monotonic()
            if left is not None and left <= 0:
                break
            try:
                return self._network.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)

    def _checked(self, host: str, port: int) -> list[str]:
        try:
            found = self._look_up(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(type(error).__name__) from error
        allowed = [address for address in found if self._is_allowed(host, address)]
        if found and not allowed:
            raise DestinationError(
                "the host has a private address, and nothing is sent there",
                code="private_address",
                hint="set `allow_private: true` for this connection if that is meant",
            )
        return allowed

    @staticmethod
    def _is_allowed(host: str, address: str) -> bool:
        known = ipaddress.ip_address(address.partition("%")[0])
        return is_public(known) or (known.is_loopback and is_loopback(host))


class Transport(httpx.BaseTransport):
    """HTTP over a backend, with the environment's proxies, which are never used for loopback.

    A proxy resolves names itself, so what it connects to is its owner's to restrict.
    """

    def __init__(self, backend: httpcore.NetworkBackend) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=None,
            max_keepalive_connections=KEPT_CONNECTIONS,
            keepalive_expiry=KEPT_S,
            network_backend=backend,
        )
        self._proxies = {
            scheme: httpx.HTTPTransport(proxy=url)
            for scheme, url in getproxies().items()
            if scheme in ("http", "https", "all")
        }
        self._direct: dict[str, bool] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        proxy = self._proxies.get(request.url.scheme) or self._proxies.get("all")
        if proxy is not None and not self._is_direct(request.url.host):
            return proxy.handle_request(request)
        assert isinstance(request.stream, httpx.SyncByteStream)
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            answer = self._pool.handle_request(asked)
        except _FAILURES as error:
            raise _as_httpx(error) from error
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Stream(answer), extensions=answer.extensions
        )

    def _is_direct(self, host: str) -> bool:
        if host not in self._direct:
            self._direct[host] = is_loopback(host) or bool(proxy_bypass(host))
        return self._direct[host]

    def close(self) -> None:
        self._pool.close()
        for proxy in self._proxies.values():
            proxy.close()


def transport(*, allow_private: bool) -> Transport:
    """What a connection's requests travel over."""
    return Transport(httpcore.SyncBackend() if allow_private else CheckedBackend())


class _Stream(httpx.SyncByteStream):
    """The body of an answer, read as it arrives."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer.iter_stream()
        except _FAILURES as error:
            raise _as_httpx(error) from error

    def close(self) -> None:
        self._answer.close()


_FAILURES = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


def _as_httpx(error: Exception) -> httpx.TransportError:
    """httpx's own error of the same name; the text is left behind, since it may hold a header or an address."""
    kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__, httpx.TransportError)
    return kind("")
