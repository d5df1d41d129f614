"""The warehouse, through the project's own dbt profile and adapter: statements in, columns out.

A `Session` is one connection; it lives only inside `with warehouse.session()`. On DuckDB leaving the block closes the
file, so that dbt and everybody else can use it while requests are in flight. A run that has many sessions after each
other keeps the connection for the next one (`Warehouse.resting`), but never while it waits (`Warehouse.away`).

Rows travel in columns, never as Python tuples: DuckDB hands its Arrow C stream to the workbench, PostgreSQL copies CSV
out of and into it. Text columns that look alike stay apart (null and ''), because every column is quoted and typed.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import duckdb

from dbt_segments.errors import LockedError, SegmentsError, SettingsError, StatementError, WarehouseError

SUPPORTED = ("duckdb", "postgres")
TEXT = "varchar"
_VIEW_WAIT_S = 3
# A connection that is older is given up between two sessions: who waits for a DuckDB file gets it before a run of many
# syncs has ended, and no server has ended it meanwhile.
_KEPT_S = 0.25


def quote(name: str) -> str:
    """An SQL identifier, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """An SQL text literal. For our own names and times only; values of users travel as parameters or columns."""
    return "null" if text is None else "'" + text.replace("'", "''") + "'"


def moment(time: datetime) -> str:
    """An SQL literal of a timestamp without a zone."""
    return f"cast({literal(time.isoformat(sep=' '))} as timestamp)"


@dataclass(frozen=True)
class Profile:
    """A dbt profile's target: which adapter, where, and what the project says in its vars.

    default_target  the target of a dbt command that names none
    path            of a DuckDB file; None for anything else
    selectors       of selectors.yml: name -> dbt's definition
    """

    kind: str
    target: str
    schema: str
    database: str
    credentials: Any = field(repr=False)
    default_target: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    selectors: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load_profile(
    project_dir: Path,
    named_dir: Path | None,
    target: str | None,
    cli_vars: Mapping[str, Any],
    environment: Mapping[str, str],
    profile: str | None = None,
) -> Profile:
    """Read dbt_project.yml and profiles.yml with dbt's own loader; no connection is made.

    named_dir  the folder of profiles.yml where one was named
    profile    another profile's name than the project's own (for `state: {profile, target}`)

    Raises SettingsError with dbt's own words where either file is missing or wrong.
    """
    from argparse import Namespace

    from dbt.config.runtime import load_profile as dbt_profile
    from dbt.config.runtime import load_project
    from dbt.flags import set_from_args
    from dbt_common.context import set_invocation_context
    from dbt_common.exceptions import DbtBaseException

    where = profiles_dir(named_dir, environment)
    try:
        set_invocation_context(dict(environment))
        set_from_args(
            Namespace(project_dir=str(project_dir), profiles_dir=str(where), vars=dict(cli_vars), version_check=False),
            None,
        )
        loaded = dbt_profile(str(project_dir), dict(cli_vars), profile, target)
        project = load_project(str(project_dir), False, loaded, dict(cli_vars))
    except DbtBaseException as error:
        raise SettingsError(f"dbt could not read the project or its profile: {_dbt_words(error)}") from None
    credentials: Any = loaded.credentials
    if credentials.type not in SUPPORTED:
        raise SettingsError(
            f"profile {loaded.profile_name}, target {loaded.target_name}: adapter {credentials.type} is not supported",
            hint=f"supported: {', '.join(SUPPORTED)}",
        )
    path = Path(credentials.path).absolute() if credentials.type == "duckdb" and _is_file(credentials.path) else None
    return Profile(
        kind=credentials.type,
        target=loaded.target_name,
        schema=credentials.schema,
        database=credentials.database,
        credentials=credentials,
        default_target=_default_target(where, loaded.profile_name, dict(cli_vars)),
        variables=project.vars.to_dict(),
        path=path,
        selectors=project.selectors,
    )


def profiles_dir(named: Path | None, environment: Mapping[str, str], cwd: Path | None = None) -> Path:
    """dbt's search order: what was named, DBT_PROFILES_DIR, the current folder if the file is there, ~/.dbt."""
    if named or environment.get("DBT_PROFILES_DIR"):
        return named or Path(environment["DBT_PROFILES_DIR"])
    cwd = cwd or Path.cwd()
    return cwd if (cwd / "profiles.yml").exists() else Path.home() / ".dbt"


def _default_target(folder: Path, profile: str, cli_vars: dict[str, Any]) -> str:
    from dbt.config.profile import read_profile
    from dbt.config.renderer import ProfileRenderer

    named = read_profile(str(folder))[profile].get("target", "default")
    return str(ProfileRenderer(cli_vars).render_value(named))


def _is_file(path: str) -> bool:
    return path != ":memory:" and not path.startswith(("md:", "motherduck:"))


def _dbt_words(error: BaseException) -> str:
    return " ".join(str(error).split())


class Warehouse:
    """Opens sessions on one profile's target."""

    def __init__(self, profile: Profile, *, wait: Callable[[str], None] | None = None) -> None:
        self.profile = profile
        self.kind = profile.kind
        self._wait = wait or (lambda message: None)
        self._mutex = threading.Lock()
        self._closing = threading.Lock()
        self._rests = False
        self._away = 0
        self._rested: tuple[Any, float] | None = None

    @contextlib.contextmanager
    def session(self, *, lock_timeout_s: float = 300.0) -> Iterator[Session]:
        """One connection, with a transaction only inside `Session.transaction`.

        lock_timeout_s  how long to wait for a DuckDB file that another process holds

        Raises LockedError when the file stays locked, WarehouseError when there is no connection.
        """
        session, connection, opened = self._begin(lock_timeout_s)
        unharmed = False
        try:
            yield session
            unharmed = True
        finally:
            with contextlib.suppress(Exception):
                session.close()
            if not (unharmed and self._put_to_rest(connection, opened)):
                self._disconnect(connection)

    def _begin(self, lock_timeout_s: float) -> tuple[Session, Any, float]:
        """A session, its connection, and when that was opened: the one that rests, where it still answers."""
        kind = _DuckDB if self.kind == "duckdb" else _Postgres
        rested = self._awake()
        if rested is not None:
            connection, opened = rested
            try:
                return kind(self.profile, connection.handle), connection, opened
            except Exception:  # the server has ended it meanwhile
                self._disconnect(connection)
        connection, opened = self._connect(lock_timeout_s), time.monotonic()
        try:
            return kind(self.profile, connection.handle), connection, opened
        except BaseException:
            self._disconnect(connection)
            raise

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """In this block a session leaves its connection to the next one.

        To open a file costs DuckDB more than most of our statements, and a connection costs a distant server several
        round trips. Whatever waits inside of the block must be `away`.
        """
        self._rests = True
        try:
            yield
        finally:
            self._rests = False
            self._let_go()

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """While the block lasts, a session that ends closes its connection, and none is kept. From any thread."""
        with self._mutex:
            self._away += 1
        try:
            self._let_go()
            yield
        finally:
            with self._mutex:
                self._away -= 1

    def _awake(self) -> tuple[Any, float] | None:
        """The connection that rests and when it was opened, if it may be kept for longer."""
        with self._mutex:
            rested, self._rested = self._rested, None
        if rested is None or time.monotonic() - rested[1] < _KEPT_S:
            return rested
        self._disconnect(rested[0])
        return None

    def _put_to_rest(self, connection: Any, opened: float) -> bool:
        with self._mutex:
            kept = time.monotonic() - opened < _KEPT_S
            if not self._rests or self._away or self._rested is not None or not kept:
                return False
            self._rested = (connection, opened)
            return True

    def _let_go(self) -> None:
        """Close the connection that rests; returns when it is closed, whoever closes it."""
        with self._closing:
            with self._mutex:
                rested, self._rested = self._rested, None
            if rested is not None:
                self._disconnect(rested[0])

    def _connect(self, lock_timeout_s: float) -> Any:
        from dbt.adapters.contracts.connection import Connection, ConnectionState
        from dbt.adapters.factory import load_plugin

        load_plugin(self.kind)
        manager = _manager(self.kind)
        deadline = time.monotonic() + lock_timeout_s
        told = False
        while True:
            connection = Connection(
                type=cast(Any, self.kind),
                name="dbt-segments",
                credentials=self.profile.credentials,
                state=ConnectionState.INIT,
            )
            try:
                if self.kind == "duckdb":
                    return _open_file(connection)
                return manager.open(connection)
            except Exception as error:
                if self.kind == "duckdb" and "could not set lock" in str(error).lower():
                    if time.monotonic() >= deadline:
                        raise LockedError(
                            f"the DuckDB file {self.profile.path} is held by another process",
                            hint="wait for it, or raise --lock-timeout",
                        ) from None
                    if not told:
                        self._wait(f"waiting for {self.profile.path}, which another process holds")
                        told = True
                    time.sleep(0.2)
                    continue
                failure = WarehouseError(f"no connection to the warehouse: {_safe(error)}")
                raise failure from None

    def _disconnect(self, connection: Any) -> None:
        if self.kind == "duckdb":
            with contextlib.suppress(duckdb.Error):
                connection.handle.cursor()._cursor.close()
            connection.handle._env.close()
        else:
            with contextlib.suppress(Exception):
                connection.handle.close()


def _open_file(connection: Any) -> Any:
    """The connection on a DuckDB instance of its own: dbt's manager has one per process, and closes it for the next.

    Here two files may be open at once, the models' and the state's.
    """
    from dbt.adapters.duckdb import environments

    close_dbts_own()
    connection.handle = environments.create(connection.credentials).handle()
    return connection


def close_dbts_own() -> None:
    """Let go of the DuckDB file that dbt keeps open in this process after a command."""
    manager = _manager("duckdb")
    with manager._LOCK:
        if manager._ENV is not None:
            manager._ENV.close()
            manager._ENV = None


# What a message may be quoted of: errors about names, files, locks and connections. All others may quote a value.
_SPEAKS_OF_NAMES = (
    "BinderException",
    "CatalogException",
    "ConnectionException",
    "FailedToConnectError",
    "IOException",
    "OutOfMemoryException",
    "ParserException",
    "PermissionException",
    "TransactionException",
)
# The same as classes of PostgreSQL's SQLSTATE (Appendix A of its manual). None: there was no server to answer.
_SQLSTATE_OF_NAMES = ("08", "25", "28", "3D", "3F", "40", "42", "53", "55", "57", "58")
# What no later run mends: a value that cannot be read as asked, a name that is not there, SQL that means nothing.
_FOR_GOOD = (duckdb.DataError, duckdb.ProgrammingError, duckdb.NotSupportedError)
_SQLSTATE_FOR_GOOD = ("0A", "22", "42")


def _manager(kind: str) -> Any:
    if kind == "duckdb":
        from dbt.adapters.duckdb.connections import DuckDBConnectionManager

        return DuckDBConnectionManager
    from dbt.adapters.postgres.connections import PostgresConnectionManager

    return PostgresConnectionManager


def _safe(error: BaseException) -> str:
    """The first line of a driver's message where it speaks of names only; else the error's class."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    state = getattr(error, "pgcode", "")
    by_state = state is None or (state and state[:2] in _SQLSTATE_OF_NAMES)
    if kinds.intersection(_SPEAKS_OF_NAMES) or by_state:
        return str(error).strip().split("\n")[0][:300]
    return f"{type(error).__name__} (its text may quote a value; run the model's SQL to see it)"


def _failure(engine: str, error: BaseException) -> WarehouseError:
    """The error of a statement, without any value; its class says whether it may pass by itself."""
    state = getattr(error, "pgcode", None) or ""
    for_good = isinstance(error, _FOR_GOOD) or state[:2] in _SQLSTATE_FOR_GOOD
    return (StatementError if for_good else WarehouseError)(f"{engine}: {_safe(error)}")


class Session:
    """Statements on one connection. Everything commits by itself outside `transaction`."""

    kind: str
    now: str
    """SQL for the warehouse's own clock: a timestamp without zone, in UTC."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run one statement; `?` marks parameters. Raises WarehouseError without its values."""
        self._run(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """A small result (counts, pointers), never members."""
        return list(self._run(sql, parameters).fetchall())

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        rows = self.rows(sql, parameters)
        return rows[0][0] if rows else None

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append log rows; all with the same columns."""
        if not rows:
            return
        columns = list(rows[0])
        names = ", ".join(quote(column) for column in columns)
        for start in range(0, len(rows), 500):
            some = rows[start : start + 500]
            marks = ", ".join("(" + ", ".join("?" for _ in columns) + ")" for _ in some)
            self.execute(
                f"insert into {table} ({names}) values {marks}", [row[column] for row in some for column in columns]
            )

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; committed and visible to others when the block ends."""
        self.execute("begin")
        try:
            yield
        except BaseException:
            with contextlib.suppress(SegmentsError):
                self.execute("rollback")
            raise
        self.commit()

    def commit(self) -> None:
        """The one place where a transaction becomes visible."""
        self.execute("commit")

    def columns(self, relation: str) -> dict[str, str]:
        """Column name -> type in lower case, in order; raises WarehouseError where the relation is missing."""
        raise NotImplementedError

    def has_table(self, schema: str, name: str) -> bool:
        """Whether a table or view of that name is there."""
        return bool(
            self.value(
                "select count(*) from information_schema.tables where table_schema = ? and table_name = ?",
                [schema, name],
            )
        )

    def tables(self, schema: str, among: Collection[str] | None = None) -> set[str]:
        """The names of all tables and views of a schema, or of those `among` them; none where there is no schema."""
        if among is not None and not among:
            return set()
        named = f" and table_name in ({', '.join('?' for _ in among)})" if among else ""
        sql = f"select table_name from information_schema.tables where table_schema = ?{named}"
        return {str(name) for (name,) in self.rows(sql, [schema, *(among or ())])}

    def text(self, expression: str, data_type: str) -> str:
        """SQL that casts to text the same way in every session: UTC, ISO, `true`/`false`; arrays as JSON."""
        raise NotImplementedError

    def key(self, expression: str, data_type: str) -> str:
        """SQL for a key's text: a whole number reads the same whatever numeric type its column has (1, not 1.0)."""
        text = self.text(expression, data_type)
        if not data_type.startswith(("decimal", "numeric", "double", "real", "float")):
            return text
        whole = f"cast(cast({expression} as decimal(38, 0)) as varchar)"
        return f"case when {expression} = floor({expression}) then {whole} else {text} end"

    def fetch(self, sql: str, bench: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
        """Stream a query into a new workbench table.

        columns  name -> DuckDB type, in the query's order
        """
        raise NotImplementedError

    def store(self, table: str, bench: duckdb.DuckDBPyConnection, sql: str, columns: Mapping[str, str]) -> None:
        """Stream a workbench query into a new warehouse table.

        columns  name -> a type that both sides know (varchar, bigint, boolean, timestamp), in the query's order
        """
        raise NotImplementedError

    def sizes(self, schema: str) -> list[tuple[str, int | None, int | None]]:
        """(table, rows, bytes) of a schema, as the warehouse's catalog estimates them; None where it does not say."""
        raise NotImplementedError

    def grant_select(self, schema: str, names: Sequence[str], role: str) -> int:
        """Let a role read these tables and views; how many grants it lacked. Without roles there is nothing to do."""
        return 0

    def replace_view(self, view: str, query: str) -> None:
        """Make a view or point it at another query, in one statement; readers see the old one or the new one.

        Raises WarehouseError where readers keep it busy for long.
        """
        self.execute(f"create or replace view {view} as {query}")

    def close(self) -> None:
        """Leave the connection as the next session may find it."""

    def _run(self, sql: str, parameters: Sequence[Any]) -> Any:
        raise NotImplementedError


class _Stream:
    """A query's result as an Arrow C stream; DuckDB reads it without pyarrow."""

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self._relation = relation

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._relation.__arrow_c_stream__(requested_schema)


class _DuckDB(Session):
    kind = "duckdb"
    now = "make_timestamp(epoch_us(now()))"

    def __init__(self, profile: Profile, handle: Any) -> None:
        super().__init__(profile)
        self._cursor: duckdb.DuckDBPyConnection = handle.cursor()._cursor

    def _run(self, sql: str, parameters: Sequence[Any]) -> Any:
        try:
            return self._cursor.execute(sql, list(parameters)) if parameters else self._cursor.execute(sql)
        except duckdb.Error as error:
            raise _failure("DuckDB", error) from None

    def columns(self, relation: str) -> dict[str, str]:
        return {name: kind.lower() for name, kind, *_ in self.rows(f"describe select * from {relation}")}

    def text(self, expression: str, data_type: str) -> str:
        if data_type == "timestamp with time zone[]":
            item = self.text("item", "timestamp with time zone")
            return f"cast(to_json(list_transform({expression}, lambda item: {item})) as varchar)"
        if data_type in ("double[]", "float[]"):  # JSON has no word for what is not finite
            return f"cast(to_json(list_transform({expression}, lambda n: case when isfinite(n) then n end)) as varchar)"
        if data_type.endswith("]"):
            return f"cast(to_json({expression}) as varchar)"
        if data_type.startswith("timestamp with time zone"):
            return f"strftime(make_timestamp(epoch_us({expression})), '%Y-%m-%dT%H:%M:%S.%fZ')"
        if data_type.startswith("timestamp"):
            return f"strftime({expression}, '%Y-%m-%dT%H:%M:%S.%f')"
        if data_type.startswith(("struct", "map", "json")):
            return f"cast(to_json({expression}) as varchar)"
        return f"cast({expression} as varchar)"

    def fetch(self, sql: str, bench: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
        try:
            _copy_stream(_Stream(self._cursor.sql(sql)), bench, table, columns)
        except duckdb.Error as error:
            raise _failure("DuckDB", error) from None

    def store(self, table: str, bench: duckdb.DuckDBPyConnection, sql: str, columns: Mapping[str, str]) -> None:
        reader = bench.cursor()
        try:
            _copy_stream(_Stream(reader.sql(sql)), self._cursor, table, columns)
        except duckdb.Error as error:
            raise _failure("DuckDB", error) from None
        finally:
            reader.close()

    def sizes(self, schema: str) -> list[tuple[str, int | None, int | None]]:
        rows = self.rows(
            "select table_name, estimated_size from duckdb_tables() "
            "where schema_name = ? and database_name = current_database() order by 1",
            [schema],
        )
        return [(name, int(estimated), None) for name, estimated in rows]

    def close(self) -> None:
        del self._cursor  # it is the connection's; a session that has ended must not speak through it


def _copy_stream(stream: _Stream, target: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
    casts = ", ".join(f"cast({quote(name)} as {kind}) as {quote(name)}" for name, kind in columns.items())
    name = f"stream_{secrets.token_hex(4)}"
    target.register(name, stream)
    try:
        target.execute(f"create table {table} as select {casts} from {name}")
    finally:
        target.unregister(name)


class _Postgres(Session):
    kind = "postgres"
    now = "cast(clock_timestamp() at time zone 'UTC' as timestamp)"

    def __init__(self, profile: Profile, handle: Any) -> None:
        import psycopg2

        super().__init__(profile)
        try:
            handle.autocommit = True
            self._cursor = handle.cursor()
        except psycopg2.Error as error:
            raise _failure("PostgreSQL", error) from None
        # How these are written must not depend on whose session it is; psycopg2 sees to dates itself.
        for setting in ("extra_float_digits = 1", "intervalstyle = 'postgres'", "bytea_output = 'hex'"):
            self._run(f"set {setting}", ())

    def _run(self, sql: str, parameters: Sequence[Any]) -> Any:
        import psycopg2

        try:
            if parameters:
                self._cursor.execute(sql.replace("%", "%%").replace("?", "%s"), list(parameters))
            else:
                self._cursor.execute(sql)
        except psycopg2.Error as error:
            raise _failure("PostgreSQL", error) from None
        return self._cursor

    def columns(self, relation: str) -> dict[str, str]:
        cursor = self._run(f"select * from {relation} limit 0", ())
        oids = [(column.name, column.type_code) for column in cursor.description]
        names = dict(
            self.rows(
                "select oid, format_type(oid, null) from pg_type where oid in ("
                + ", ".join(str(o) for _, o in oids)
                + ")"
            )
        )
        return {name: str(names[oid]).lower() for name, oid in oids}

    def text(self, expression: str, data_type: str) -> str:
        if data_type == "timestamp with time zone[]":
            item = self.text("item", "timestamp with time zone")
            items = f"select array_agg({item} order by place) from unnest({expression}) with ordinality u(item, place)"
            return f"cast(to_json(({items})) as text)"
        if data_type.endswith("]"):
            return f"cast(to_json({expression}) as text)"
        if data_type.startswith("timestamp with time zone"):
            return f"""to_char({expression} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
        if data_type.startswith("timestamp"):
            return f"""to_char({expression}, 'YYYY-MM-DD"T"HH24:MI:SS.US')"""
        return f"cast({expression} as text)"

    def fetch(self, sql: str, bench: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, str]) -> None:
        import psycopg2

        with _spool(bench) as path:
            try:
                with path.open("wb") as file:
                    self._cursor.copy_expert(f"copy ({sql}) to stdout with (format csv, force_quote *)", file)
            except psycopg2.Error as error:
                raise _failure("PostgreSQL", error) from None
            spec = ", ".join(f"{literal(name)}: 'varchar'" for name in columns)
            casts = ", ".join(f"cast({quote(name)} as {kind}) as {quote(name)}" for name, kind in columns.items())
            if path.stat().st_size == 0:
                empty = ", ".join(f"cast(null as {kind}) as {quote(name)}" for name, kind in columns.items())
                bench.execute(f"create table {table} as select {empty} where false")
                return
            _in_bench(
                bench,
                f"create table {table} as select {casts} from read_csv({literal(str(path))}, header = false, "
                f"auto_detect = false, delim = ',', quote = '\"', escape = '\"', new_line = '\\n', "
                f"columns = {{{spec}}}, allow_quoted_nulls = false, strict_mode = true, max_line_size = 16777216)",
            )

    def store(self, table: str, bench: duckdb.DuckDBPyConnection, sql: str, columns: Mapping[str, str]) -> None:
        import psycopg2

        names = ", ".join(f"{quote(name)} {'text' if kind == TEXT else kind}" for name, kind in columns.items())
        self._run(f"create table {table} ({names})", ())
        with _spool(bench) as path:
            _in_bench(
                bench, f"copy ({sql}) to {literal(str(path))} (format csv, header false, force_quote *, nullstr '')"
            )
            try:
                with path.open("rb") as file:
                    self._cursor.copy_expert(f"copy {table} from stdin with (format csv)", file)
            except psycopg2.Error as error:
                raise _failure("PostgreSQL", error) from None

    def sizes(self, schema: str) -> list[tuple[str, int | None, int | None]]:
        rows = self.rows(
            "select c.relname, c.reltuples, pg_total_relation_size(c.oid) from pg_class c "
            "join pg_namespace n on n.oid = c.relnamespace where n.nspname = ? and c.relkind = 'r' order by 1",
            [schema],
        )
        # -1: neither vacuum nor analyze has looked at it yet
        return [(name, int(rows) if rows >= 0 else None, int(size)) for name, rows, size in rows]

    def grant_select(self, schema: str, names: Sequence[str], role: str) -> int:
        lacking = []
        if not self.value("select has_schema_privilege(?, ?, 'usage')", [role, schema]):
            lacking.append(f"usage on schema {quote(schema)}")
        # What another role made, such as the record of dbt's builds, is that role's to grant.
        rows = self.rows(
            "select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where n.nspname = ? and c.relname = any(?) and c.relkind in ('r', 'v') "
            "and pg_has_role(c.relowner, 'usage') and not has_table_privilege(?, c.oid, 'select') order by 1",
            [schema, list(names), role],
        )
        lacking += [f"select on {quote(schema)}.{quote(name)}" for (name,) in rows]
        for what in lacking:
            self.execute(f"grant {what} to {quote(role)}")
        return len(lacking)

    def replace_view(self, view: str, query: str) -> None:
        with self.transaction():
            # Replacing waits for every reader of the view, and new readers wait behind it.
            self.execute(f"set local lock_timeout = '{_VIEW_WAIT_S}s'")
            super().replace_view(view, query)

    def close(self) -> None:
        self._cursor.close()


def _in_bench(bench: duckdb.DuckDBPyConnection, sql: str) -> None:
    try:
        bench.execute(sql)
    except duckdb.Error as error:
        raise _failure("workbench", error) from None


@contextlib.contextmanager
def _spool(bench: duckdb.DuckDBPyConnection) -> Iterator[Path]:
    """A file beside the workbench's own, in its private folder, gone when the block ends."""
    row = bench.execute("select path from duckdb_databases() where database_name = current_database()").fetchone()
    folder = Path(str(row[0])).parent if row and row[0] else Path()
    path = folder / f"spool-{secrets.token_hex(6)}.csv"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
