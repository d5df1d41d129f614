"""The warehouse on DuckDB and PostgreSQL: what goes through it in either direction, and who can see it when."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import pytest

from dbt_segments import warehouse as warehouses
from dbt_segments.errors import LockedError, StatementError, WarehouseError
from dbt_segments.warehouse import Session, load_profile
from dbt_segments.workbench import open_workbench
from tests.projects import DbtProject, DuckDBWarehouse, MakeProject, PostgresWarehouse, Warehouse, make_project

# Texts that a column of rows can lose, merge or misread on its way through CSV, Arrow and parameters.
TEXTS: tuple[str | None, ...] = (
    None,
    "",
    " ",
    "NULL",
    "null",
    "\\N",
    "\\.",
    "\\",
    "a\\b\\",
    "'",
    "''",
    '"',
    '""',
    'say "hello", he said',
    ",",
    "a,b",
    ";",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "one\ntwo",
    "one\r\ntwo",
    "one\rtwo",
    "ends with a newline\n",
    "\n\n",
    "%s",
    "?",
    "{}",
    "Zoë Łódź Ærø 東京 кот",
    "e\u0301",
    "\u00e9",
    "👩\u200d👧 🇩🇪",
    "\u200f שלום",
    "\ufeffafter a byte order mark",
    "\u2028",
    "\u00a0",
    "\U0010ffff",
    "".join(chr(code) for code in range(1, 32)),
    "\x1f",
    "\x7f\x80\x9f",
    "x" * 1_000_000,
    'é"\n' * 250_000,
)


@pytest.fixture
def project(dbt_project: MakeProject, warehouse: Warehouse) -> DbtProject:
    """An empty dbt project, with a schema `main` to put tables into."""
    warehouse.sql("create schema if not exists main")
    return dbt_project(warehouse=warehouse)


@pytest.fixture
def opened(project: DbtProject) -> warehouses.Warehouse:
    """The product's access to the same warehouse."""
    return access(project)


@pytest.fixture
def bench() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_workbench("256MB") as connection:
        yield connection


def access(project: DbtProject) -> warehouses.Warehouse:
    return warehouses.Warehouse(load_profile(project.path, project.path, None, {}, {}))


def literal(value: object) -> str:
    return "null" if value is None else "'" + str(value).replace("'", "''") + "'"


def fill(project: DbtProject, table: str, columns: str, rows: str) -> None:
    """Make a table with plain SQL, on a connection that is closed again."""
    project.sql(f"create table main.{table} ({columns})")
    project.sql(f"insert into main.{table} values {rows}")


# -- rows in both directions ----------------------------------------------------------------------------------


def test_every_text_comes_out_as_it_is(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """Null, empty, quotes, newlines, control characters and a megabyte reach the workbench unchanged."""
    rows = ", ".join(f"({number}, {literal(text)})" for number, text in enumerate(TEXTS))
    fill(project, "texts", "id integer, value text", rows)
    with opened.session() as session:
        session.fetch("select id, value from main.texts", bench, "arrived", {"id": "bigint", "value": "varchar"})
    arrived = dict(bench.execute("select id, value from arrived").fetchall())
    assert [number for number, text in enumerate(TEXTS) if arrived[number] != text] == []
    assert len(arrived) == len(TEXTS)


def test_every_text_goes_in_as_it_is(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """The same texts reach the warehouse from the workbench unchanged."""
    bench.execute("create table leaving (id bigint, value varchar)")
    bench.executemany("insert into leaving values (?, ?)", [list(row) for row in enumerate(TEXTS)])
    with opened.session() as session:
        session.store("main.stored", bench, "select id, value from leaving", {"id": "bigint", "value": "varchar"})
    stored = dict(project.sql("select id, value from main.stored"))
    assert [number for number, text in enumerate(TEXTS) if stored[number] != text] == []
    assert len(stored) == len(TEXTS)


@pytest.mark.parametrize("values", [[None, "", "a", None, "\n"], [None], [""], ["\r"]], ids=repr)
def test_one_column_alone(
    values: list[str | None],
    project: DbtProject,
    opened: warehouses.Warehouse,
    bench: duckdb.DuckDBPyConnection,
) -> None:
    """Where null is an empty line, no row is lost in either direction."""
    fill(project, "single", "value text", ", ".join(f"({literal(value)})" for value in values))
    with opened.session() as session:
        session.fetch("select value from main.single", bench, "arrived", {"value": "varchar"})
        session.store("main.returned", bench, "select value from arrived", {"value": "varchar"})
    returned = [value for (value,) in project.sql("select value from main.returned")]
    assert sorted(map(repr, returned)) == sorted(map(repr, values))


def test_zero_rows(project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection) -> None:
    """An empty result is an empty table with its columns and types, in both directions."""
    columns = {"id": "bigint", "value": "varchar", "said": "boolean", "seen_at": "timestamp"}
    project.sql("create table main.nobody (id bigint, value text, said boolean, seen_at timestamp)")
    with opened.session() as session:
        session.fetch("select * from main.nobody", bench, "arrived", columns)
        session.store("main.returned", bench, "select * from arrived", columns)
        types = session.columns("main.returned")
    described = bench.execute("describe arrived").fetchall()
    assert {name: kind.lower() for name, kind, *_ in described} == columns
    assert project.sql("select count(*) from main.returned") == [(0,)]
    assert list(types) == list(columns)


def test_values_keep_their_types(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """Numbers, booleans, dates and times arrive as what they are, nulls included."""
    fill(
        project,
        "typed",
        "id integer, big bigint, price numeric(38, 10), ratio double precision, "
        "said boolean, day date, seen_at timestamp",
        "(1, 9223372036854775807, 12345678901234567890.0123456789, 0.1, "
        "true, '2024-02-29', '1999-12-31 23:59:59.123456'),"
        " (2, -9223372036854775808, -0.5, -1e300, false, '0001-01-01', '1969-07-20 20:17:40'),"
        " (3, null, null, null, null, null, null)",
    )
    columns = {
        "id": "integer",
        "big": "bigint",
        "price": "decimal(38, 10)",
        "ratio": "double",
        "said": "boolean",
        "day": "date",
        "seen_at": "timestamp",
    }
    with opened.session() as session:
        session.fetch("select * from main.typed", bench, "arrived", columns)
    assert bench.execute("select * from arrived order by id").fetchall() == [
        (
            1,
            9223372036854775807,
            Decimal("12345678901234567890.0123456789"),
            0.1,
            True,
            dt.date(2024, 2, 29),
            dt.datetime(1999, 12, 31, 23, 59, 59, 123456),
        ),
        (
            2,
            -9223372036854775808,
            Decimal("-0.5000000000"),
            -1e300,
            False,
            dt.date(1, 1, 1),
            dt.datetime(1969, 7, 20, 20, 17, 40),
        ),
        (3, None, None, None, None, None, None),
    ]


def test_what_the_state_stores_keeps_its_types(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """Text, whole numbers, booleans and times go into the warehouse as such, nulls included."""
    columns = {"id": "bigint", "value": "varchar", "said": "boolean", "seen_at": "timestamp"}
    query = (
        "select * from (values (1, 'a', true, timestamp '2026-03-29 02:30:00.5'), (-2, '', false, null), "
        "(null, null, null, null)) v(id, value, said, seen_at)"
    )
    with opened.session() as session:
        session.store("main.stored", bench, query, columns)
    assert project.sql("select * from main.stored order by id nulls last") == [
        (-2, "", False, None),
        (1, "a", True, dt.datetime(2026, 3, 29, 2, 30, 0, 500_000)),
        (None, None, None, None),
    ]


def test_many_rows_lose_and_repeat_nothing(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """300,000 rows arrive once each, there and back."""
    series = "generate_series(1, 300000)"
    source = f"unnest({series})" if project.warehouse.type == "duckdb" else series
    project.sql(f"create table main.many as select id, concat('member, ', id) as value from (select {source} as id) s")
    columns = {"id": "bigint", "value": "varchar"}
    with opened.session() as session:
        session.fetch("select id, value from main.many", bench, "arrived", columns)
        session.store("main.returned", bench, "select id, value from arrived", columns)
    assert project.sql(
        "select count(*), count(distinct r.id), sum(case when r.value = m.value then 1 else 0 end) "
        "from main.returned r join main.many m on m.id = r.id"
    ) == [(300_000, 300_000, 300_000)]
    assert bench.execute("select count(*), count(distinct id) from arrived").fetchall() == [(300_000, 300_000)]


def test_a_spool_leaves_nothing_behind(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """After rows went through, and after they failed to, no file with raw values lies beside the workbench."""
    fill(project, "people", "value text", "('ada@example.com')")
    ((path,),) = bench.execute("select path from duckdb_databases() where path is not null").fetchall()
    folder = Path(path).parent
    before = {file.name for file in folder.iterdir()}
    with opened.session() as session:
        session.fetch("select value from main.people", bench, "arrived", {"value": "varchar"})
        session.store("main.returned", bench, "select value from arrived", {"value": "varchar"})
        with pytest.raises(WarehouseError):
            session.fetch("select value from main.nowhere", bench, "never", {"value": "varchar"})
    assert {file.name for file in folder.iterdir()} <= before | {"workbench.duckdb.wal"}


# -- texts of typed values ------------------------------------------------------------------------------------

# A literal, and the text that every session of either warehouse must make of it.
SAME_TEXT = {
    "cast('ada' as varchar(10))": "ada",
    "cast('' as varchar(10))": "",
    "cast(null as varchar(10))": None,
    "cast(-42 as integer)": "-42",
    "cast(9223372036854775807 as bigint)": "9223372036854775807",
    "cast(1.5 as numeric(12, 2))": "1.50",
    "cast(true as boolean)": "true",
    "cast(false as boolean)": "false",
    "cast(null as boolean)": None,
    "cast('2026-03-04' as date)": "2026-03-04",
    "cast('2026-03-04 05:06:07.089' as timestamp)": "2026-03-04T05:06:07.089000",
    "cast('2026-03-04 05:06:07+02' as timestamp with time zone)": "2026-03-04T03:06:07.000000Z",
    "cast(null as timestamp with time zone)": None,
}
ARRAYS = {
    "array[1, 2]": "[1,2]",
    "array['a', null, 'say \"b\"', '']": '["a",null,"say \\"b\\"",""]',
    "array[cast('2026-03-04' as date)]": '["2026-03-04"]',
}
# Values whose text is the warehouse's own; of a time in an array it must at least not depend on the session.
OWN_TEXT = (
    "cast(0.1 as double precision)",
    "cast(1234567.891 as real)",
    "interval '1 day 2 hours'",
    "cast('05:06:07' as time)",
    "cast('a' as bytea)",
    "array[cast('2026-03-04 05:06:07' as timestamp)]",
    "array[cast('2026-03-04 05:06:07+02' as timestamp with time zone)]",
)


def texts_of(project: DbtProject, expressions: list[str]) -> list[str | None]:
    """What `Session.text` makes of each expression, read as a column of a table."""
    found: list[str | None] = []
    with access(project).session() as session:
        for number, expression in enumerate(expressions):
            session.execute(f"create table main.t{number} as select {expression} as c")
            kind = session.columns(f"main.t{number}")["c"]
            found.append(session.value(f"select {session.text('c', kind)} from main.t{number}"))
            session.execute(f"drop table main.t{number}")
    return found


def elsewhere(project: DbtProject) -> None:
    """Make every later session speak with another zone, and with PostgreSQL's other notations."""
    found = project.warehouse
    if isinstance(found, PostgresWarehouse):
        for setting in (
            "timezone = 'Pacific/Auckland'",
            "datestyle = 'German, DMY'",
            "intervalstyle = 'sql_standard'",
            "extra_float_digits = -3",
            "bytea_output = 'escape'",
        ):
            project.sql(f"alter database {found.database.dbname} set {setting}")
        return
    assert isinstance(found, DuckDBWarehouse)
    profiles = project.path / "profiles.yml"
    profiles.write_text(
        profiles.read_text().replace("      threads:", "      settings: {TimeZone: Pacific/Auckland}\n      threads:")
    )


@pytest.mark.parametrize("other", [False, True], ids=["plain", "elsewhere"])
def test_the_text_of_a_value_is_the_same_everywhere(project: DbtProject, other: bool) -> None:
    """Both warehouses, in sessions of any time zone and notation, write a value as the same text."""
    if other:
        elsewhere(project)
    assert dict(zip(SAME_TEXT, texts_of(project, list(SAME_TEXT)), strict=True)) == SAME_TEXT


@pytest.mark.parametrize("expression", OWN_TEXT)
def test_a_session_does_not_change_the_text_of_a_value(project: DbtProject, expression: str) -> None:
    """Floats, intervals, bytes and times in arrays, too, have one text in all sessions of a warehouse."""
    before = texts_of(project, [expression])
    elsewhere(project)
    assert texts_of(project, [expression]) == before


def test_arrays_are_json(project: DbtProject) -> None:
    """The text of an array is its JSON, with nulls and quotes kept apart."""
    assert dict(zip(ARRAYS, texts_of(project, list(ARRAYS)), strict=True)) == ARRAYS


# -- statements -----------------------------------------------------------------------------------------------


def test_parameters_are_values_and_never_sql(project: DbtProject, opened: warehouses.Warehouse) -> None:
    """Quotes, percent signs and nulls travel as parameters, in statements, rows and logs of more than one insert."""
    project.sql("create table main.log (id integer, value text)")
    values = ["'); drop table main.log; --", "100 %", "%s", "?", None, ""]
    rows = [{"id": number, "value": values[number % len(values)]} for number in range(1_101)]
    with opened.session() as session:
        session.insert("main.log", rows)
        session.insert("main.log", [])
        assert session.value("select count(*) from main.log where value like ?", ["%;%--"]) == 184
        assert session.rows("select id from main.log where value = ? and id < ?", ["%s", 9]) == [(2,), (8,)]
    assert project.sql("select count(*), count(value) from main.log") == [(1_101, 918)]


def test_columns_and_tables_are_told(project: DbtProject, opened: warehouses.Warehouse) -> None:
    """Columns come in their order with lower-case types, of views too; what is missing is said to be missing."""
    project.sql('create table main.things ("Id" integer, said boolean, seen_at timestamp with time zone, tags text[])')
    project.sql("create view main.seen as select * from main.things")
    with opened.session() as session:
        for relation in ("main.things", '"main"."seen"'):
            columns = session.columns(relation)
            assert list(columns) == ["Id", "said", "seen_at", "tags"]
            assert columns["said"] == "boolean"
            assert columns["seen_at"] == "timestamp with time zone"
            assert columns["tags"].endswith("[]")
        assert session.has_table("main", "things")
        assert session.has_table("main", "seen")
        assert not session.has_table("main", "nothing")
        with pytest.raises(WarehouseError):
            session.columns("main.nothing")
        assert session.value("select 1") == 1  # the failure has not broken the session


def test_the_clock_is_the_warehouses_in_utc(project: DbtProject) -> None:
    """`now` is a time without zone in UTC, whatever the session's zone."""
    elsewhere(project)
    before = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
    with access(project).session() as session:
        now = session.value(f"select {session.now}")
    after = dt.datetime.now(dt.timezone.utc).replace(tzinfo=None)
    assert before <= now <= after


@pytest.mark.parametrize(
    "sql",
    [
        "select cast(value as integer) from main.people",
        "select cast(value as date) from main.people",
        "insert into main.people values ('ada@example.com')",
        "select cast(value || '1' as boolean) from main.people",
    ],
)
def test_an_error_names_the_fault_and_no_value(project: DbtProject, opened: warehouses.Warehouse, sql: str) -> None:
    """What a driver quotes from the rows is in no message; what it says of our names is."""
    fill(project, "people", "value text primary key", "('ada@example.com')")
    with opened.session() as session:
        with pytest.raises(WarehouseError) as raised:
            session.rows(sql)
        assert "ada@" not in str(raised.value)
        assert raised.value.__cause__ is None
        # What is in the way of one row alone may be gone the next time.
        assert raised.value.exit_code == (3 if sql.startswith("insert") else 1)
        with pytest.raises(StatementError, match="no_such_column"):
            session.rows("select no_such_column from main.people")


class _Answer(psycopg2.Error):
    """An error of PostgreSQL with this state; None where no server answered."""

    def __init__(self, state: str | None) -> None:
        super().__init__("said")
        self._state = state

    @property
    def pgcode(self) -> str | None:
        return self._state


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (duckdb.ConversionException("said"), 1),
        (duckdb.BinderException("said"), 1),
        (duckdb.CatalogException("said"), 1),
        (duckdb.OutOfRangeException("said"), 1),
        (duckdb.NotImplementedException("said"), 1),
        (duckdb.IOException("said"), 3),
        (duckdb.ConnectionException("said"), 3),
        (duckdb.TransactionException("said"), 3),
        (duckdb.OutOfMemoryException("said"), 3),
        (duckdb.ConstraintException("said"), 3),
        (_Answer("22P02"), 1),
        (_Answer("42703"), 1),
        (_Answer("23505"), 3),
        (_Answer("40001"), 3),
        (_Answer("53200"), 3),
        (_Answer("55P03"), 3),
        (_Answer("57P01"), 3),
        (_Answer(None), 3),
    ],
    ids=lambda value: getattr(value, "pgcode", None) or type(value).__name__,
)
def test_what_a_later_run_does_not_mend_says_so(error: Exception, code: int) -> None:
    """Errors of SQL and of data need reading; lost connections, locks and the like may pass by themselves."""
    assert warehouses._failure("engine", error).exit_code == code


def test_an_error_while_rows_travel_quotes_none(
    project: DbtProject, opened: warehouses.Warehouse, bench: duckdb.DuckDBPyConnection
) -> None:
    """A cast that fails in the middle of a stream is a WarehouseError without the value, in either direction."""
    fill(project, "people", "value text", "('ada@example.com')")
    bench.execute("create table leaving as select 'ada@example.com' as value")
    with opened.session() as session:
        for travel in (
            lambda: session.fetch("select cast(value as integer) v from main.people", bench, "a", {"v": "bigint"}),
            lambda: session.fetch("select value from main.people", bench, "b", {"value": "bigint"}),
            lambda: session.store("main.c", bench, "select value from leaving", {"value": "bigint"}),
        ):
            with pytest.raises(WarehouseError) as raised:
                travel()
            assert "ada@" not in str(raised.value)


# -- transactions ---------------------------------------------------------------------------------------------


def others(project: DbtProject, session: Session) -> int:
    """Rows of main.log as another connection sees them while the session is open."""
    if isinstance(project.warehouse, PostgresWarehouse):
        return int(project.sql("select count(*) from main.log")[0][0])
    cursor = session._cursor.cursor()  # type: ignore[attr-defined]  # DuckDB: no second process may open the file
    try:
        return int(cursor.execute("select count(*) from main.log").fetchone()[0])
    finally:
        cursor.close()


def test_a_transaction_is_seen_whole_and_only_when_it_ends(project: DbtProject, opened: warehouses.Warehouse) -> None:
    """A second connection sees nothing of a transaction before its end, and everything after it."""
    project.sql("create table main.log (id integer)")
    with opened.session() as session:
        with session.transaction():
            session.insert("main.log", [{"id": 1}])
            session.insert("main.log", [{"id": 2}])
            assert others(project, session) == 0
        assert others(project, session) == 2
        session.insert("main.log", [{"id": 3}])
        assert others(project, session) == 3
    assert project.sql("select count(*) from main.log") == [(3,)]


@pytest.mark.parametrize("failure", ["raise", "statement", "interrupt"])
def test_a_failure_takes_everything_back(project: DbtProject, opened: warehouses.Warehouse, failure: str) -> None:
    """After an exception of any kind in a transaction nothing of it is there, and the session goes on."""
    project.sql("create table main.log (id integer)")
    kinds: dict[str, type[BaseException]] = {
        "raise": ValueError,
        "statement": WarehouseError,
        "interrupt": KeyboardInterrupt,
    }
    with opened.session() as session:
        with pytest.raises(kinds[failure]), session.transaction():
            session.insert("main.log", [{"id": 1}])
            session.execute("create table main.made (id integer)")
            if failure == "statement":
                session.execute("insert into main.nowhere values (1)")
            raise kinds[failure]
        assert not session.has_table("main", "made")
        with session.transaction():
            session.insert("main.log", [{"id": 2}])
    assert project.sql("select id from main.log") == [(2,)]


def test_a_session_that_fails_leaves_no_half_transaction(project: DbtProject, opened: warehouses.Warehouse) -> None:
    """Statements outside a transaction stay, the open transaction goes, when a session ends with an exception."""
    project.sql("create table main.log (id integer)")
    with pytest.raises(ValueError, match="boom"), opened.session() as session:
        session.insert("main.log", [{"id": 1}])
        with session.transaction():
            session.insert("main.log", [{"id": 2}])
            raise ValueError("boom")
    assert project.sql("select id from main.log") == [(1,)]


# -- the DuckDB file ------------------------------------------------------------------------------------------

_OPEN = "import duckdb, sys; print(duckdb.connect(sys.argv[1]).execute('select 42').fetchone()[0])"
_HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read(); c.close()"


@pytest.fixture
def file(dbt_project: MakeProject, duckdb_warehouse: DuckDBWarehouse) -> DbtProject:
    """A project on a DuckDB file that is there."""
    duckdb_warehouse.sql("select 1")
    return dbt_project(warehouse=duckdb_warehouse)


def can_open(project: DbtProject) -> bool:
    """Whether another process can open the project's DuckDB file for writing."""
    assert isinstance(project.warehouse, DuckDBWarehouse)
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(project.warehouse.path)], capture_output=True, text=True, check=False
    )
    return done.stdout == "42\n"


def hold(project: DbtProject) -> subprocess.Popen[str]:
    """Another process that holds the file until its stdin is closed."""
    assert isinstance(project.warehouse, DuckDBWarehouse)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(project.warehouse.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def release(holder: subprocess.Popen[str]) -> None:
    holder.communicate()


def test_the_file_is_held_in_a_session_and_free_after_it(file: DbtProject) -> None:
    """Another process cannot open the file while a session is open, and can as soon as it has ended."""
    opened = access(file)
    for _ in range(2):
        with opened.session() as session:
            session.execute("create or replace table main.t (id integer)")
            assert not can_open(file)
        assert can_open(file)


def test_the_file_is_free_after_a_session_that_failed(file: DbtProject) -> None:
    """An exception in the block closes the file as well."""
    with pytest.raises(ValueError, match="boom"), access(file).session():
        raise ValueError("boom")
    assert can_open(file)


def test_two_files_at_once_are_both_free_afterwards(file: DbtProject, tmp_path: Path) -> None:
    """Models in one DuckDB file and the state in another: sessions nest, write apart, and close both files."""
    other = DuckDBWarehouse(tmp_path / "state.duckdb")
    other.sql("select 1")
    beside = make_project(tmp_path / "beside", other, {})
    with access(beside).session() as state, access(file).session() as models:
        state.execute("create table main.of_state (id integer)")
        models.execute("create table main.of_models (id integer)")
        assert state.has_table("main", "of_state")
        assert not state.has_table("main", "of_models")
        assert models.has_table("main", "of_models")
    assert can_open(file)
    assert can_open(beside)
    assert file.sql("select table_name from information_schema.tables") == [("of_models",)]
    assert beside.sql("select table_name from information_schema.tables") == [("of_state",)]


def test_a_held_file_is_waited_for_and_then_refused(file: DbtProject) -> None:
    """With another process on the file: one message, then LockedError, which may pass by itself."""
    told: list[str] = []
    opened = warehouses.Warehouse(load_profile(file.path, file.path, None, {}, {}), wait=told.append)
    holder = hold(file)
    try:
        began = time.monotonic()
        with pytest.raises(LockedError, match="held by another process") as raised, opened.session(lock_timeout_s=0.5):
            pass
        assert time.monotonic() - began >= 0.5
    finally:
        release(holder)
    assert raised.value.exit_code == 3
    assert "--lock-timeout" in (raised.value.hint or "")
    assert len(told) == 1
    assert can_open(file)


def test_a_file_that_becomes_free_is_taken(file: DbtProject) -> None:
    """The session begins as soon as the other process lets go, long before the time is up."""
    profile = load_profile(file.path, file.path, None, {}, {})
    holder = hold(file)
    with warehouses.Warehouse(profile, wait=lambda text: release(holder)).session(lock_timeout_s=60) as session:
        assert session.value("select 42") == 42


@pytest.mark.postgres
def test_no_connection_is_an_error_without_a_secret(
    postgres_warehouse: PostgresWarehouse, dbt_project: MakeProject
) -> None:
    """A server that is not there is a WarehouseError that does not show the password."""
    project = dbt_project(warehouse=postgres_warehouse)
    profiles = project.path / "profiles.yml"
    profiles.write_text(
        profiles.read_text()
        .replace(f"port: {postgres_warehouse.database.port}", "port: 1")
        .replace("unused", "hunter2")
    )
    opened: Any = access(project)
    with pytest.raises(WarehouseError, match="no connection") as raised, opened.session():
        pass
    assert "hunter2" not in f"{raised.value!r} {opened.profile!r}"
