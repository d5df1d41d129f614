"""The pipeline that is measured for dlt; it runs in dlt's own environment.

argv: folder with the warehouse, query, URL, rows in a request
"""

import json
import sys
from pathlib import Path

import dlt
import duckdb
import requests

folder, query, url, batch = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
session = requests.Session()


@dlt.destination(
    name="sink",
    batch_size=batch,
    loader_file_format="parquet",
    naming_convention="direct",
    skip_dlt_columns_and_tables=True,
)
def sink(items, table):
    rows = items.to_pylist()
    session.post(
        url, data=json.dumps(rows, default=str), headers={"Content-Type": "application/json"}
    ).raise_for_status()


@dlt.resource(name="vip")
def vip(updated_at=dlt.sources.incremental("updated_at")):  # noqa: B008
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        after = f" and updated_at > timestamp '{updated_at.last_value}'" if updated_at.last_value else ""
        yield from connection.sql(query + after).to_arrow_reader(batch)


dlt.pipeline("shop", destination=sink, pipelines_dir=str(folder / "pipelines")).run(vip())
