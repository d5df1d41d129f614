"""A private PostgreSQL server for the tests: own data folder, own port, gone when the tests are."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPERUSER = "segments"
REQUIRED = "DBT_SEGMENTS_REQUIRE_POSTGRES"

_database_number = itertools.count(1)

# Durability costs most of the time here, and a test server never outlives the machine.
_SERVER_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
}


class NoServerError(Exception):
    """PostgreSQL cannot be started here; the text says what is missing."""


@dataclass(frozen=True)
class PostgresDatabase:
    """How to reach one database; the server trusts every connection over loopback."""

    port: int
    dbname: str
    host: str = "127.0.0.1"
    user: str = SUPERUSER
    password: str = "unused"

    def connect(self) -> Any:
        """A new psycopg2 connection in autocommit."""
        import psycopg2

        connection = psycopg2.connect(
            host=self.host, port=self.port, dbname=self.dbname, user=self.user, password=self.password
        )
        connection.autocommit = True
        return connection


@dataclass(frozen=True)
class PostgresServer:
    """A running server."""

    port: int

    def database(self, name: str) -> PostgresDatabase:
        return PostgresDatabase(self.port, name)

    @contextmanager
    def fresh_database(self, prefix: str = "test") -> Iterator[PostgresDatabase]:
        """An empty database of its own, dropped afterwards together with whoever still uses it.

        prefix  of its name; processes that share a server need different ones
        """
        name = f"{prefix}_{next(_database_number)}"
        self._administer(f"create database {name}")
        try:
            yield self.database(name)
        finally:
            self._administer(f"drop database {name} with (force)")

    def _administer(self, statement: str) -> None:
        connection = self.database("postgres").connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Make a cluster in a temporary folder, start it, stop and delete it at the end.

    Raises NoServerError where the binaries or the driver are missing.
    """
    binaries = _binaries()
    _check_driver()
    home = Path(tempfile.mkdtemp(prefix="segments-pg-"))
    account = _account()
    if account:
        os.chown(home, account.pw_uid, account.pw_gid)
    try:
        _run(account, binaries / "initdb", "-D", home / "data", *_INITDB_OPTIONS)
        port = _start(account, binaries, home)
        try:
            yield PostgresServer(port)
        finally:
            _run(account, binaries / "pg_ctl", "-D", home / "data", "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


# Locale C is the unkind choice on purpose: `lower()` and letter classes know ASCII only, as on many real servers.
_INITDB_OPTIONS = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")


def _start(account: pwd.struct_passwd | None, binaries: Path, home: Path) -> int:
    """Start the server on a free port. Another process may take the port first, hence more than one try."""
    for attempt in range(5):
        port = _free_port()
        settings = {**_SERVER_SETTINGS, "port": str(port), "unix_socket_directories": str(home)}
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        log = home / f"server-{attempt}.log"
        try:
            _run(account, binaries / "pg_ctl", "-D", home / "data", "-w", "-l", log, "-o", options, "start")
        except NoServerError:
            if attempt == 4:
                raise
        else:
            return port
    raise AssertionError("unreachable")


def _binaries() -> Path:
    """The folder of initdb and pg_ctl: beside pg_config, on PATH, or Debian's newest version."""
    candidates = []
    if pg_config := shutil.which("pg_config"):
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        candidates.append(Path(found.stdout.strip()))
    if initdb := shutil.which("initdb"):
        candidates.append(Path(initdb).resolve().parent)
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    candidates += sorted(debian, key=lambda path: path.parent.name.zfill(4), reverse=True)
    for folder in candidates:
        if (folder / "initdb").is_file() and (folder / "pg_ctl").is_file():
            return folder
    raise NoServerError(
        "PostgreSQL's server binaries (initdb, pg_ctl) were not found; install the package `postgresql`"
    )


def _check_driver() -> None:
    try:
        import psycopg2  # noqa: F401
    except ImportError as error:
        raise NoServerError("psycopg2 is not installed; install the extra `postgres`") from error


def _account() -> pwd.struct_passwd | None:
    """The user to run the server as, when we are root: PostgreSQL refuses to run as root. None: ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServerError("running as root, and there is neither a user `postgres` nor `nobody` to run PostgreSQL as")


def _run(account: pwd.struct_passwd | None, *command: str | Path) -> None:
    """Run a server tool. Output goes to a file: the server inherits it, and a pipe would never be closed."""
    identity: dict[str, Any] = {}
    if account:
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
            check=False,
            **identity,
        )
        if done.returncode != 0:
            output.seek(0)
            text = output.read().decode(errors="replace").strip()
            raise NoServerError(f"{Path(command[0]).name} failed: {text}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
