"""Checks what a built wheel and sdist hold: `python tests/check_distributions.py dist/`. Exits with 1 if not right."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JUNK = ("__pycache__", "/target/", "/dbt_packages/", "/logs/", ".duckdb", ".egg-info")
BESIDE_THE_CODE = (
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "dbt_project.yml",
    "macros/on_run_end.sql",
    "pyproject.toml",
    "sample_project/dbt_project.yml",
    "sample_project/seeds/raw_customers.csv",
    "tests/conftest.py",
)


def source_files() -> set[str]:
    """Every file of the Python package, relative to the repository."""
    files = (ROOT / "dbt_segments").rglob("*")
    return {str(file.relative_to(ROOT)) for file in files if file.is_file() and "__pycache__" not in file.parts}


def wheel_problems(names: Iterable[str]) -> list[str]:
    """What is wrong with a wheel that holds these files."""
    found = set(names)
    foreign = {name for name in found if not name.startswith(("dbt_segments/", "dbt_segments-"))}
    return _problems("wheel", found, source_files(), foreign)


def sdist_problems(names: Iterable[str]) -> list[str]:
    """What is wrong with an sdist that holds these files, given without its top folder."""
    found = set(names)
    return _problems("sdist", found, source_files() | set(BESIDE_THE_CODE), set())


def _problems(kind: str, found: set[str], wanted: set[str], foreign: set[str]) -> list[str]:
    junk = {name for name in found if any(part in f"/{name}" for part in JUNK)}
    return [f"{kind} lacks {name}" for name in sorted(wanted - found)] + [
        f"{kind} must not hold {name}" for name in sorted(junk | foreign)
    ]


def main(folder: Path) -> int:
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        problems = wheel_problems(archive.namelist())
    with tarfile.open(sdist) as tar:
        problems += sdist_problems(member.name.split("/", 1)[1] for member in tar.getmembers() if member.isfile())
    print("\n".join(problems) or f"{wheel.name} and {sdist.name} hold what they should")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
