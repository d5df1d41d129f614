"""A small world for engine tests: tables, a manifest, a connection to the sandbox, and syncs in this process.

The manifest is written by hand, so that a sync takes a fraction of a second; the tests in e2e/ run the real dbt.
The expected membership is computed here with hashlib from plain rules; nothing is shared with the engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dbt_segments import pipeline
from dbt_segments.pipeline import PlanResult, Request
from dbt_segments.sandbox.server import Serving, serve
from dbt_segments.settings import resolve_options
from dbt_segments.values import RunResult, SyncResult
from tests.projects import DbtProject, Warehouse, make_project

KEY = tuple[str, str]


def sha(text: str) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def email(text: str) -> KEY:
    """What Meta must hold of an e-mail."""
    return ("EMAIL", sha(text.strip().lower()))


def phone(digits: str) -> KEY:
    """What Meta must hold of a phone number, given as its digits with the country code."""
    return ("PHONE", sha(digits))


def own_id(text: str) -> KEY:
    """What Meta must hold of an external id: itself."""
    return ("EXTERN_ID", text)


@dataclass
class World:
    """One dbt project with an entity `customers` and segments, one warehouse, one sandbox.

    customers have customer_id (integer), email, phone, country, ads_consent; a segment is a table of customer_id;
    `data_tests` are dbt tests by name, each with the model it is on. `syncs` are those of the whole entity, `related`
    its relations: each names a model, which the test makes with `sql`; `models` are further models of the manifest.
    """

    project: DbtProject
    warehouse: Warehouse
    url: str
    serving: Serving | None = None
    identifiers: dict[str, Any] = field(
        default_factory=lambda: {"email": "email", "phone": {"column": "phone", "country": "country"}}
    )
    consent: dict[str, str] = field(default_factory=dict)
    suppress: list[str] = field(default_factory=list)
    segments: dict[str, dict[str, Any]] = field(default_factory=lambda: {"vip": {"destinations": ["meta"]}})
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    data_tests: dict[str, str] = field(default_factory=dict)
    related: dict[str, dict[str, Any]] = field(default_factory=dict)
    syncs: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)

    # -- the warehouse ----------------------------------------------------------------------------------------

    def customers(self, rows: Iterable[Sequence[Any]], *, key: str = "integer") -> None:
        """Replace the entity: (customer_id, email, phone, country, ads_consent); short rows are filled with nulls."""
        self._table(
            "customers",
            f"customer_id {key}, email varchar(200), phone varchar(100), country varchar(60), ads_consent boolean",
            [tuple(row) + (None,) * (5 - len(row)) for row in rows],
        )

    def segment(self, keys: Iterable[Any], name: str = "vip", *, key: str = "integer") -> None:
        """Replace a segment's members."""
        self._table(name, f"customer_id {key}", [(k,) for k in keys])

    def opt_outs(self, keys: Iterable[Any], name: str = "opt_outs") -> None:
        """Replace a suppression model."""
        self._table(name, "customer_id integer", [(k,) for k in keys])

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query on a connection of its own."""
        return self.warehouse.sql(query)

    def state(self, table: str, columns: str = "*", where: str = "1 = 1") -> list[tuple[Any, ...]]:
        """Rows of a state table, from a second connection."""
        return self.sql(f"select {columns} from {self.warehouse.schema}_dbt_segments.{table} where {where}")

    def _table(self, name: str, columns: str, rows: Sequence[Sequence[Any]]) -> None:
        table = f"{self.warehouse.schema}.{name}"
        self.sql(
            f"create schema if not exists {self.warehouse.schema}; drop table if exists {table}; "
            f"create table {table} ({columns})"
        )
        for start in range(0, len(rows), 500):
            values = ", ".join("(" + ", ".join(_literal(v) for v in row) + ")" for row in rows[start : start + 500])
            self.sql(f"insert into {table} values {values}")

    # -- running ----------------------------------------------------------------------------------------------

    def write(self) -> None:
        """Write manifest.json, destinations.yml and the settings as they are now."""
        settings = {"targets": ["dev"], **self.variables}
        path = self.project.path / "dbt_project.yml"
        content = yaml.safe_load(path.read_text())
        content["vars"] = {"dbt_segments": settings}
        path.write_text(yaml.safe_dump(content))
        connections = self.connections or {"meta": self.meta()}
        self.project.write("destinations.yml", yaml.safe_dump(connections))
        self.project.write("target/manifest.json", json.dumps(self._manifest()))

    def meta(self, **settings: Any) -> dict[str, Any]:
        """A connection to the sandbox's Meta."""
        return {
            "type": "meta",
            "base_url": f"{self.url}/meta",
            "ad_account_id": "1002003004005",
            "access_token": "sandbox-token",
            **settings,
        }

    def sync(self, **options: Any) -> SyncResult:
        """Sync, whether due or not; the result of the only sync."""
        run = self.run(**options)
        assert len(run.syncs) == 1, run
        return run.syncs[0]

    def run(self, **options: Any) -> RunResult:
        """Sync everything, whether due or not unless `now=False`."""
        return pipeline.sync(self.request(**options), _quiet)

    def plan(self, **options: Any) -> PlanResult:
        """Plan everything."""
        return pipeline.plan(self.request(**options), _quiet)

    def request(self, *, select: Sequence[str] = (), target: str | None = None, **options: Any) -> Request:
        """A request for this project; writes its files first."""
        self.write()
        found = resolve_options(
            project_dir=self.project.path, profiles_dir=self.project.path, select=select, target=target
        )
        return Request(options=found, **{"now": True, "lock_timeout_s": 20.0, **options})

    # -- the destination --------------------------------------------------------------------------------------

    def held(self, name: str | None = None) -> set[KEY]:
        """Every identifier whose person is in the audience now; of the only audience, or the one of that name."""
        found = [a for a in self.audiences() if name is None or a["name"] == name]
        assert len(found) == 1, [a["name"] for a in found]
        return {(field_, value) for field_, value in found[0]["keys"]}

    def audiences(self) -> list[dict[str, Any]]:
        """The audiences that exist at the sandbox."""
        assert self.serving is not None
        return [a for a in self.serving.state()["audiences"] if not a["deleted"]]

    def calls(self, op: str | None = None) -> list[dict[str, Any]]:
        """What the sandbox was asked, oldest first."""
        assert self.serving is not None
        found = self.serving.sandbox.calls
        return [vars(call) if not isinstance(call, dict) else call for call in found if op is None or _op(call) == op]

    # -- the manifest -----------------------------------------------------------------------------------------

    def _manifest(self) -> dict[str, Any]:
        entity: dict[str, Any] = {
            "name": "customer",
            "kind": "person",
            "key": "customer_id",
            "identifiers": self.identifiers,
        }
        if self.consent:
            entity["consent"] = self.consent
        if self.suppress:
            entity["suppress"] = self.suppress
        if self.related:
            entity["related"] = self.related
        if self.syncs:
            entity["syncs"] = self.syncs
        nodes = [self._node("customers", {"entity": entity})]
        nodes += [self._node(relation["model"], None) for relation in self.related.values()]
        nodes += [self._node(name, None) for name in (*self.suppress, *self.models)]
        nodes += [
            self._node(name, {"segment": {"entity": "customer", **block}}) for name, block in self.segments.items()
        ]
        nodes += [self._test(name, model) for name, model in self.data_tests.items()]
        return {
            "metadata": {
                "dbt_schema_version": "https://schemas.getdbt.com/dbt/manifest/v12.json",
                "project_name": "shop",
                "invocation_id": "test",
                "adapter_type": self.warehouse.type,
            },
            "nodes": {node["unique_id"]: node for node in nodes},
            "sources": {},
        }

    def _test(self, name: str, model: str) -> dict[str, Any]:
        """A data test on a model; its unique_id is `test.shop.<name>`."""
        return {
            "unique_id": f"test.shop.{name}",
            "name": name,
            "resource_type": "test",
            "package_name": "shop",
            "attached_node": f"model.shop.{model}",
            "config": {"enabled": True, "severity": "error"},
            "depends_on": {"nodes": [f"model.shop.{model}"]},
        }

    def _node(self, name: str, block: Mapping[str, Any] | None) -> dict[str, Any]:
        meta = {"dbt_segments": block} if block else {}
        return {
            "unique_id": f"model.shop.{name}",
            "name": name,
            "resource_type": "model",
            "package_name": "shop",
            "path": f"{name}.sql",
            "original_file_path": f"models/{name}.sql",
            "patch_path": "shop://models/schema.yml",
            "relation_name": f'"{self.warehouse.schema}"."{name}"',
            "config": {"materialized": "table", "enabled": True, "meta": meta, "tags": []},
            "meta": meta,
            "columns": {},
            "depends_on": {"nodes": []},
            "tags": [],
        }


def make_world(path: Path, warehouse: Warehouse, serving: Serving) -> World:
    """A world with three customers and an empty-handed sandbox."""
    return World(make_project(path, warehouse, {}), warehouse, serving.url, serving)


def sandbox() -> AbstractContextManager[Serving]:
    """A sandbox of its own on a free loopback port."""
    return serve()


def _op(call: Any) -> str:
    return str(call["op"] if isinstance(call, dict) else call.op)


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _quiet(sync_id: str, text: str) -> None:
    """Progress that nobody reads."""
