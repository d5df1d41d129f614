"""The bare limit: the least program that keeps an audience equal to a segment, to see what the rest costs.

    python -m benchmarks.limit warehouse.duckdb snapshot.duckdb http://127.0.0.1:8099

DuckDB compares, normalises, hashes and writes JSON; one thread a core moves ready bodies. It has nothing of what makes
a sync safe: no record of what was sent before it is sent, no retries, no limits, no rules of a platform, no telephone
numbers parsed, no members who share an identifier, no consent, no log, no configuration.
"""

from __future__ import annotations

import http.client
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import duckdb

from benchmarks.people import MEMBERS_SQL, NORMALISED

BATCH = 10_000
PATH = "/v26.0/1/users"


def sync(warehouse: str, snapshot: str, url: str) -> None:
    """Send what differs from the snapshot, removals first, then write the snapshot anew where it differs."""
    host, threads = urlsplit(url).netloc, os.cpu_count() or 1
    raw = ", ".join(NORMALISED)
    with duckdb.connect(snapshot) as connection, ThreadPoolExecutor(threads) as pool:
        connection.execute(f"attach '{warehouse}' as warehouse (read_only)")
        connection.execute("create table if not exists sent (customer_id bigint, digest uhugeint, email varchar)")
        connection.execute(
            f"create or replace table changed as select m.* from (select customer_id, "
            f"md5_number(concat_ws(chr(31), {raw})) as digest, {raw} from warehouse.{_members()}) m "
            "left join sent s using (customer_id) where s.digest is distinct from m.digest"
        )
        connection.execute(
            "create or replace table gone as select customer_id, email from sent "
            "where customer_id in (select customer_id from changed) "
            f"or customer_id not in (select customer_id from warehouse.{_members()})"
        )
        every = [f"sha256({expression})" for expression in NORMALISED.values()]
        empty = "".join(',""' for _ in every[1:])
        for table, row, remove in (
            ("gone", f"concat('[\"', email, '\"{empty}]')", True),
            ("changed", "concat('[\"', " + ", '\",\"', ".join(every) + ", '\"]')", False),
        ):
            (rows,) = connection.execute(f"select count(*) from {table}").fetchone() or (0,)
            starts = range(0, rows, BATCH)
            list(pool.map(lambda start: _send(connection.cursor(), host, table, row, start, remove), starts))  # noqa: B023
        connection.execute("begin")
        connection.execute("delete from sent where customer_id in (select customer_id from gone)")
        connection.execute(f"insert into sent select customer_id, digest, {every[0]} from changed")
        connection.execute("commit")
        connection.execute("drop table changed; drop table gone")


def _members() -> str:
    return MEMBERS_SQL.replace("from vip", "from warehouse.vip")


def _send(cursor: duckdb.DuckDBPyConnection, host: str, table: str, row: str, start: int, remove: bool) -> None:
    query = f"select string_agg({row}, ',') from {table} where rowid >= {start} and rowid < {start + BATCH}"
    (rows,) = cursor.execute(query).fetchone() or ("",)
    cursor.close()
    method = '"method":"DELETE",' if remove else ""
    body = f'{{{method}"payload":{{"schema":[],"data":[{rows}]}}}}'.encode()
    connection = http.client.HTTPConnection(host)
    connection.request("POST", PATH, body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    reply.read()
    status = reply.status
    connection.close()
    if status != 200:
        raise RuntimeError(f"the server answered {status}")


if __name__ == "__main__":
    sync(*sys.argv[1:])
