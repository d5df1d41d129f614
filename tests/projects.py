"""A dbt project in a temporary folder, and the warehouse it runs on, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb
import yaml

from tests.postgres import PostgresDatabase

REPOSITORY = Path(__file__).resolve().parent.parent
HOOK = "{{ dbt_segments.on_run_end() }}"


class Warehouse(Protocol):
    """What tests need of a warehouse: its entry in profiles.yml, and queries from a second connection."""

    type: str
    schema: str

    def output(self) -> dict[str, Any]:
        """The target's block in profiles.yml."""

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query, or none of a statement, on a new connection that is closed again."""


@dataclass(frozen=True)
class DuckDBWarehouse:
    path: Path
    schema: str = "main"
    type: str = "duckdb"

    def output(self) -> dict[str, Any]:
        return {"type": "duckdb", "path": str(self.path), "schema": self.schema, "threads": 2}

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(duckdb.connect(str(self.path))) as connection:
            return connection.execute(query).fetchall()


@dataclass(frozen=True)
class PostgresWarehouse:
    database: PostgresDatabase
    schema: str = "shop"
    type: str = "postgres"

    def output(self) -> dict[str, Any]:
        found = self.database
        return {
            "type": "postgres",
            "host": found.host,
            "port": found.port,
            "user": found.user,
            "password": found.password,
            "dbname": found.dbname,
            "schema": self.schema,
            "threads": 2,
        }

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.database.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall()) if cursor.description else []


MakeProject = Callable[..., "DbtProject"]


@dataclass(frozen=True)
class DbtProject:
    """A project folder; profiles.yml lies in it, so it is its own profiles folder."""

    path: Path
    warehouse: Warehouse
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def profiles_dir(self) -> Path:
        return self.path

    @property
    def target_dir(self) -> Path:
        return self.path / "target"

    def write(self, path: str, text: str) -> Path:
        """Write a file below the project folder."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query against the warehouse, from a connection of its own."""
        return self.warehouse.sql(query)

    def manifest(self) -> dict[str, Any]:
        """target/manifest.json of the last command."""
        found: dict[str, Any] = json.loads((self.target_dir / "manifest.json").read_text(encoding="utf-8"))
        return found

    def run(self, *arguments: str, ok: bool | None = True) -> Any:
        """Run a dbt command in this process (about a second) and return dbt's `dbtRunnerResult`.

        ok  what the command must end as; None: either
        """
        from dbt.cli.main import dbtRunner

        with no_open_warehouse():
            # dbt never closes its log file, and an unclosed file is a warning, hence an error.
            result = dbtRunner().invoke([*arguments, *self.options(), "--log-level-file", "none"])
        if ok is not None and result.success is not ok:
            raise AssertionError(f"dbt {' '.join(arguments)}: success is {result.success}: {_explain(result)}")
        return result

    def dbt(self, *arguments: str, ok: bool | None = True) -> subprocess.CompletedProcess[str]:
        """Run a dbt command in a process of its own (about four seconds): what a user's shell sees."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("dbt")), *arguments, *self.options()],
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
            cwd=self.path,
            check=False,
        )
        if ok is not None and (done.returncode == 0) is not ok:
            raise AssertionError(f"dbt {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def options(self) -> list[str]:
        """Options that point dbt at this project and keep it quiet."""
        folder = str(self.path)
        return ["--project-dir", folder, "--profiles-dir", folder, "--log-path", f"{folder}/logs", "--no-use-colors"]


def make_project(
    path: Path,
    warehouse: Warehouse,
    files: dict[str, str],
    *,
    package: bool = False,
    vars: dict[str, object] | None = None,
    extra: dict[str, object] | None = None,
    inside: bool = False,
) -> DbtProject:
    """Write dbt_project.yml, profiles.yml and `files`; with `package`, install this repository's dbt package too.

    inside  dbt's commands sync what they built, as they do for users; else only `dbt-segments` syncs
    """
    project = DbtProject(path, warehouse)
    settings: dict[str, Any] = {
        "name": "shop",
        "version": "1.0",
        "config-version": 2,
        "profile": "shop",
        "flags": {"send_anonymous_usage_stats": False},
        "vars": {"dbt_segments": {"targets": ["dev"], "sync_in_dbt": inside}, **(vars or {})},
        **(extra or {}),
    }
    if package:
        settings["on-run-end"] = [HOOK]
        _install_package(project)
    project.write("dbt_project.yml", yaml.safe_dump(settings, sort_keys=False))
    profiles = {"shop": {"target": "dev", "outputs": {"dev": warehouse.output()}}}
    project.write("profiles.yml", yaml.safe_dump(profiles, sort_keys=False))
    for name, text in files.items():
        project.write(name, text)
    return project


def _install_package(project: DbtProject) -> None:
    """What `dbt deps` leaves for `local:`, without the seconds that it takes; test_macros runs the real one."""
    project.write("packages.yml", yaml.safe_dump({"packages": [{"local": str(REPOSITORY)}]}))
    folder = project.path / "dbt_packages"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dbt_segments").symlink_to(REPOSITORY, target_is_directory=True)


@contextlib.contextmanager
def no_open_warehouse() -> Iterator[None]:
    """dbt-duckdb keeps its file open in the process after a command; close it, or nobody else can open it."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.adapters.factory import reset_adapters

    try:
        yield
    finally:
        reset_adapters()
        environment = DuckDBConnectionManager._ENV
        if environment is not None:
            environment.close()
            DuckDBConnectionManager._ENV = None


def _explain(result: Any) -> str:
    """What dbt said: the exception, or each result that is no success."""
    if result.exception is not None:
        return repr(result.exception)
    rows = getattr(result.result, "results", None) or []
    return "; ".join(
        f"{row.node.unique_id}: {row.status}: {row.message}" for row in rows if str(row.status) != "success"
    )
