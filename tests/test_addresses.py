"""Connections go to public addresses, to the one that was checked, and to loopback where it is written literally."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore
import httpx
import pytest

from dbt_segments import addresses
from dbt_segments.errors import DestinationError


class Network(httpcore.NetworkBackend):
    """Connects to nothing and tells what it was asked; `dead` addresses take no connection."""

    def __init__(self, *dead: str) -> None:
        self.asked: list[str] = []
        self.dead = dead

    def connect_tcp(self, host: str, port: int, timeout: Any = None, *rest: Any, **more: Any) -> httpcore.NetworkStream:
        self.asked.append(host)
        if host in self.dead:
            raise httpcore.ConnectError("refused")
        return httpcore.MockStream([])


def connect(host: str, found: list[str], *dead: str) -> list[str]:
    """The addresses that were connected to, in order, where the resolver finds these."""
    network = Network(*dead)
    addresses.CheckedBackend(lambda name, port: found, network).connect_tcp(host, 443, 5.0)
    return network.asked


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "127.0.0.1",
        "0.0.0.0",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:0a00:0001::1",
        "2001:0:1:1::f5ff:fffe",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    """Private, loopback, link-local, metadata, multicast and reserved ones, and IPv6 forms that wrap them."""
    with pytest.raises(DestinationError) as caught:
        connect("hooks.example.com", [address])
    assert caught.value.code == "private_address"
    assert "allow_private" in (caught.value.hint or "")
    assert address not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07::1", "64:ff9b::5db8:d70e", "::ffff:8.8.8.8"])
def test_public_addresses_are_connected_to(address: str) -> None:
    """By address, not by name: a second look-up cannot change it."""
    assert connect("hooks.example.com", [address]) == [address]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_by_name_is_meant(host: str) -> None:
    """A literal loopback host may have a loopback address, and no other private one."""
    assert connect(host, ["127.0.0.1"]) == ["127.0.0.1"]
    with pytest.raises(DestinationError):
        connect(host, ["10.0.0.1"])


def test_only_public_addresses_of_a_name_are_tried() -> None:
    """A mixed answer leads to its public part, one address after the other."""
    assert connect("hooks.example.com", ["10.0.0.1", "8.8.8.8", "8.8.4.4"], "8.8.8.8") == ["8.8.8.8", "8.8.4.4"]


def test_no_address_is_a_failed_connection() -> None:
    """An unknown name, none at all, or all dead: httpx's own error, which is tried again."""

    def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror("unknown")

    for look_up in (unknown, lambda host, port: []):
        with pytest.raises((httpcore.ConnectError, httpcore.ConnectTimeout)):
            addresses.CheckedBackend(look_up, Network()).connect_tcp("hooks.example.com", 443, 5.0)
    with pytest.raises(httpcore.ConnectError):
        connect("hooks.example.com", ["8.8.8.8"], "8.8.8.8")


def test_every_address_shares_the_time() -> None:
    """No further address is tried once the time to connect is over."""
    network = Network()
    with pytest.raises(httpcore.ConnectTimeout):
        addresses.CheckedBackend(lambda host, port: ["8.8.8.8"], network).connect_tcp("a.example.com", 443, 0.0)
    assert network.asked == []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200)
        body = f"{self.headers['host']} {self.path}".encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_name_travels_with_the_request(port: int) -> None:
    """Connected to the checked address, yet the host is the one that was asked for."""
    network = httpcore.SyncBackend()
    looked_up: list[str] = []

    def look_up(host: str, asked_port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    transport = addresses.Transport(addresses.CheckedBackend(look_up, network))
    with httpx.Client(transport=transport) as client:
        for _ in range(3):
            assert client.get(f"http://localhost:{port}/a?b=c").text == f"localhost:{port} /a?b=c"
    assert looked_up == ["localhost"], "one connection, so one look-up"


def test_errors_are_those_of_httpx(port: int) -> None:
    """The sender knows no other library's errors, and no text of theirs comes along."""
    with httpx.Client(transport=addresses.transport(allow_private=False)) as client:
        with pytest.raises(httpx.ConnectError) as caught:
            client.get("http://127.0.0.1:9/")
        assert str(caught.value) == ""
        with pytest.raises(httpx.UnsupportedProtocol):
            client.get("gopher://127.0.0.1/")
        with pytest.raises(DestinationError):
            client.get(f"http://2130706433:{port}/")


def test_allow_private_asks_nothing(port: int) -> None:
    """Whoever allows it reaches a private address under any name."""
    with httpx.Client(transport=addresses.transport(allow_private=True)) as client:
        assert client.get(f"http://2130706433:{port}/").status_code == 200


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """For hosts that are neither loopback nor excepted; the proxy resolves them itself."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "direct.example.com")
    with httpx.Client(transport=addresses.transport(allow_private=False)) as client:
        assert client.get("http://far.example.com/x").text == "far.example.com http://far.example.com/x"
        assert client.get(f"http://127.0.0.1:{port}/y").text == f"127.0.0.1:{port} /y"
        with pytest.raises(httpx.ConnectError):
            client.get("http://direct.example.com/z")


def test_wrapped_addresses_are_unwrapped() -> None:
    """The table of wrapped forms, and that a plain address has no inner one."""
    assert addresses._wrapped(ipaddress.ip_address("2606:2800:21f:cb07::1")) is None
    assert addresses._wrapped(ipaddress.ip_address("8.8.8.8")) is None
