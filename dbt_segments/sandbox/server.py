"""The sandbox on a loopback port: in a thread for tests, in the foreground for people."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

import dbt_segments.sandbox as package
from dbt_segments.sandbox import control
from dbt_segments.sandbox.app import Sandbox
from dbt_segments.sandbox.platform import Clock, Platform

# A platform is the `PLATFORM` of its module. Paths that name none belong to the first.
_FIRST = "meta"


@functools.cache
def platforms() -> dict[str, type[Platform]]:
    """Every platform by name."""
    modules = (importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__))
    found = [module.PLATFORM for module in modules if hasattr(module, "PLATFORM")]
    return {cls.name: cls for cls in sorted(found, key=lambda cls: (cls.name != _FIRST, cls.name))}


@dataclass(frozen=True)
class Serving:
    """A sandbox that is being served; `url` has no slash at its end."""

    url: str
    sandbox: Sandbox

    def state(self, keys: bool = True) -> dict[str, Any]:
        """As GET /_sandbox/state answers."""
        with self.sandbox.lock:
            return control.state(self.sandbox, keys)


class _Protocol(H11Protocol):
    """Lets the application reach its connection, to cut it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def build(names: Sequence[str] = (_FIRST,), clock: Clock | None = None, **options: Any) -> Sandbox:
    """A sandbox of named platforms; `options` go to each, e.g. `tokens=`, `app_secret=`."""
    clock = clock or Clock()
    return Sandbox([platforms()[name](clock, **options) for name in names], clock)


@contextmanager
def serve(port: int = 0, sandbox: Sandbox | None = None, state_file: str | None = None) -> Iterator[Serving]:
    """Serve from a thread of this process; port 0 takes any free one."""
    sandbox = sandbox or build()
    _attach(sandbox, state_file)
    server, listener = _server(sandbox, port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
    thread.start()
    try:
        yield Serving(_url(listener), sandbox)
    finally:
        sandbox.closing = True
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
        _save(sandbox)


def run(
    ready: Callable[[str], None], port: int = 0, sandbox: Sandbox | None = None, state_file: str | None = None
) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; `ready` gets the URL once connections are taken."""
    sandbox = sandbox or build()
    _attach(sandbox, state_file)
    server, listener = _server(sandbox, port)
    # uvicorn raises the signal again when it has stopped; as KeyboardInterrupt it still lets us save.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ready(_url(listener))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()
        _save(sandbox)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, sandbox: Sandbox) -> None:
        super().__init__(config)
        self._sandbox = sandbox

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._sandbox.closing = True
        super().handle_exit(sig, frame)


def _server(sandbox: Sandbox, port: int) -> tuple[_Server, socket.socket]:
    """A server and its listening socket: who connects before the server runs waits in the queue."""
    # The protocol is named because asyncio turns Nagle's delay off for sockets that say TCP only.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    config = uvicorn.Config(
        sandbox,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        # Answers are dated by the sandbox's own clock, which tests may advance.
        date_header=False,
        timeout_graceful_shutdown=2,
    )
    return _Server(config, sandbox), listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _attach(sandbox: Sandbox, state_file: str | None) -> None:
    sandbox.state_file = state_file
    if state_file is not None and Path(state_file).exists() and Path(state_file).stat().st_size:
        control.load(sandbox, state_file)


def _save(sandbox: Sandbox) -> None:
    if sandbox.state_file is not None:
        control.save(sandbox, sandbox.state_file)
