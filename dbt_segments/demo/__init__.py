"""`dbt-segments demo`: a sample dbt project on DuckDB, synced over real HTTP to a local sandbox, and to files.

With the very commands that a user would type it syncs for the first time, again with nothing changed, after a change in
the data, into a hold, out of it, and after a kill; each time it compares what arrived with what must have happened.
"""

from __future__ import annotations

import json
import os.path
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dbt_segments import settings
from dbt_segments.demo import acts
from dbt_segments.demo.stage import Echo, Stage, StepError
from dbt_segments.errors import SettingsError
from dbt_segments.sandbox import server

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sample_project"

_MADE_HERE = shutil.ignore_patterns(
    "package-lock.yml", "target", "dbt_packages", "logs", "out", "*.duckdb*", ".user.yml", "__pycache__"
)


def run(folder: Path | None, echo: Echo) -> int:
    """Play the demo in `folder`, which is kept, or in a temporary one; 0 if all came as it must, else 1.

    Raises SettingsError where the sample project is not there or `folder` is in use.
    """
    if not SAMPLE.is_dir():
        raise SettingsError(
            "demo: the sample project is not part of an installed package",
            hint="clone the repository and run `make demo` in it",
        )
    with _folder(folder) as place, server.serve(sandbox=server.build(tuple(server.platforms()))) as serving:
        copy_sample(place)
        stage = Stage(place, serving, echo, _environment(settings.environment(), serving.url))
        try:
            wrong = acts.play(stage)
        except StepError as error:
            wrong = [str(error)]
    for text in wrong:
        echo(f"\nThe demo failed: {text}")
    return 1 if wrong else 0


def copy_sample(place: Path) -> None:
    """Copy the sample project out of the repository, whose root is the dbt package."""
    shutil.copytree(SAMPLE, place, ignore=_MADE_HERE, dirs_exist_ok=True)
    (place / "packages.yml").write_text(f"packages:\n  - local: {json.dumps(str(ROOT))}\n", encoding="utf-8")


@contextmanager
def _folder(named: Path | None) -> Iterator[Path]:
    """The folder to play in: the named one, which must be new or empty, or one that is removed afterwards."""
    if named is None:
        with tempfile.TemporaryDirectory(prefix="dbt-segments-demo-") as name:
            yield Path(name).resolve()
        return
    if named.exists() and any(named.iterdir()):
        raise SettingsError(f"demo: {named} is not empty", hint="name a new folder")
    yield named.resolve()


def _environment(inherited: Mapping[str, str], url: str) -> dict[str, str]:
    """Of the process's environment, all but what would lead dbt elsewhere or leave this machine."""
    env = {name: value for name, value in inherited.items() if not name.startswith(("DBT_", "META_", "CRM_"))}
    paths = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
    return {
        **env,
        "PYTHONPATH": os.path.pathsep.join(paths),
        "DBT_SEGMENTS_SANDBOX_URL": url,
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
    }
