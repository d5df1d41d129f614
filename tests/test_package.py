"""The package as a whole: cheap to import, imports that point down, files that agree with each other."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import dbt_segments
from tests import check_distributions
from tests.projects import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = REPOSITORY / "dbt_segments"
HEAVY = {"click", "dbt", "duckdb", "httpx", "jinja2", "phonenumbers", "pycountry", "pydantic", "starlette", "uvicorn"}

# What each module may import of this package, by prefix; the rest of the package lies above it.
ALLOWED = {
    "errors": (),
    "values": ("errors",),
    "builds": ("errors", "values"),
    "retry": ("errors", "destinations.base"),
    "identifiers": ("identifiers", "errors", "values"),
    "destinations": ("destinations", "identifiers", "values", "errors", "spelling"),
    "sandbox": ("sandbox",),
}


def test_importing_the_package_is_cheap() -> None:
    """dbt imports every installed `dbt_*` module in every command, so ours brings no library and nothing of ours."""
    code = "import sys; before = set(sys.modules); import dbt_segments; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == ["dbt_segments"]


def test_the_plugin_loads_nothing_that_dbt_has_not() -> None:
    """What dbt imports of ours in every command is two small modules; no library of the sync's comes with them."""
    code = (
        "import sys, dbt.cli.main, dbt.plugins; before = set(sys.modules)\n"
        "import dbt_segments; dbt_segments.plugins; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == ["dbt_segments", "dbt_segments.events", "dbt_segments.plugin"]


def test_help_and_version_load_nothing_heavy() -> None:
    """The command line starts without dbt, DuckDB or an HTTP client."""
    code = (
        "import sys\nfrom dbt_segments.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit: pass\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    version, modules = done.stdout.splitlines()
    assert version == f"dbt-segments, version {dbt_segments.__version__}"
    assert set(modules.split()) & HEAVY == {"click"}


def imports_of(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports, as dotted names below `dbt_segments`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("dbt_segments."):
                yield name.removeprefix("dbt_segments.")


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_imports_point_down(layer: str) -> None:
    """A lower layer knows nothing of those above: destinations see base, auth, identifiers, values and errors only."""
    folder = PACKAGE / layer
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{layer}.py"]
    assert files
    for file in files:
        for name in imports_of(file):
            allowed = any(name == below or name.startswith(f"{below}.") for below in (*ALLOWED[layer], "__version__"))
            assert allowed, f"{file.relative_to(REPOSITORY)} imports {name}"


# `send` plays calls, `addresses` opens connections, and files are written behind the same interface.
_HTTP = {"send.py", "addresses.py", "testing.py", "destinations/_files_store.py"}


@pytest.mark.parametrize(
    ("module", "only"),
    [("httpx", _HTTP), ("uvicorn", {"sandbox/server.py"}), ("phonenumbers", {"identifiers"})],
)
def test_libraries_have_one_home(module: str, only: set[str]) -> None:
    """Only `send` and `addresses` reach platforms; only the sandbox serves; only identifiers parse phones."""
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == module for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == module)
    }
    assert users
    assert {user for user in users if user not in only and user.split("/")[0] not in only} == set()


def test_only_settings_reads_the_environment() -> None:
    """`os.environ` and `os.getenv` stand in settings.py and nowhere else."""
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    }
    assert users <= {"settings.py"}


def test_versions_agree() -> None:
    """Package, dbt package and the changelog's top entry name one version."""
    package = yaml.safe_load((REPOSITORY / "dbt_project.yml").read_text())
    heading = next(line for line in (REPOSITORY / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert package["version"] == heading.split()[1] == dbt_segments.__version__


def test_the_dbt_package_brings_macros_only() -> None:
    """Every path but macro-paths is empty, and each is set: dbt's defaults would find our tests."""
    package = yaml.safe_load((REPOSITORY / "dbt_project.yml").read_text())
    paths = {key: value for key, value in package.items() if key.endswith("-paths")}
    assert paths == {
        "macro-paths": ["macros"],
        **{f"{kind}-paths": [] for kind in ("model", "seed", "test", "snapshot", "analysis")},
    }


def test_dbt_ranges_agree() -> None:
    """The dbt package accepts every dbt that the Python package accepts, and dbt v2 besides."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    (declared,) = (line for line in project["dependencies"] if line.startswith("dbt-core"))
    package = yaml.safe_load((REPOSITORY / "dbt_project.yml").read_text())
    assert declared == "dbt-core>=1.10,<1.13"
    assert package["require-dbt-version"] == [">=1.10.0", "<3.0.0"]


def test_constraints_are_versions_and_nothing_else() -> None:
    """constraints.txt names versions: no address, no hash, no option."""
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.split(" ; ")[0].partition("==")
            assert name and version and "/" not in line and "@" not in line and "--" not in line, line


def test_seeds_are_what_the_script_writes(tmp_path: Path) -> None:
    """The sample project's CSV files are those that make_seeds.py makes."""
    folder = REPOSITORY / "sample_project"
    runpy.run_path(str(folder / "make_seeds.py"))["write"](tmp_path)
    made = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text(encoding="utf-8") for file in (folder / "seeds").glob("*.csv")}


def test_the_check_of_distributions_finds_what_is_wrong() -> None:
    """A wheel without py.typed or with tests in it, and an sdist without macros, are reported."""
    whole = check_distributions.source_files()
    assert check_distributions.wheel_problems(whole) == []
    assert check_distributions.wheel_problems(whole - {"dbt_segments/py.typed"}) == [
        "wheel lacks dbt_segments/py.typed"
    ]
    assert check_distributions.wheel_problems(whole | {"tests/conftest.py"}) == [
        "wheel must not hold tests/conftest.py"
    ]
    beside = set(check_distributions.BESIDE_THE_CODE) - {"macros/on_run_end.sql"}
    assert check_distributions.sdist_problems(whole | beside) == ["sdist lacks macros/on_run_end.sql"]
