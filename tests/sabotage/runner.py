"""Runs one test against a sabotaged copy of the product, and judges how it failed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.sabotage.cases import Sabotage

REPOSITORY = Path(__file__).resolve().parents[2]
_COPIED = ("dbt_segments", "tests")
_TIMEOUT_S = 300
# An assertion failed, or `pytest.raises` saw nothing; anything else may be the sabotage's own mistake.
_ASSERTIONS = ("AssertionError", "assert ", "Failed: DID NOT RAISE")


class NotProvedError(Exception):
    """The sabotage does not apply, or the test did not notice it as a test should."""


def times(sabotage: Sabotage, root: Path = REPOSITORY) -> int:
    """How often the text that is to be replaced occurs."""
    return (root / "dbt_segments" / sabotage.file).read_text(encoding="utf-8").count(sabotage.old)


def prove(sabotage: Sabotage, folder: Path) -> str:
    """The assertion by which the test failed, in its first line. Raises NotProvedError.

    folder  empty; receives a copy of the product and its tests
    """
    if times(sabotage) != 1:
        raise NotProvedError(f"{sabotage.file} has the text {times(sabotage)} times: {sabotage.old!r}")
    for name in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "target", "logs")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    file = folder / "dbt_segments" / sabotage.file
    file.write_text(file.read_text(encoding="utf-8").replace(sabotage.old, sabotage.new), encoding="utf-8")
    compile(file.read_text(encoding="utf-8"), sabotage.file, "exec")
    return _judge(_run(sabotage.node, folder), sabotage)


def _run(node: str, folder: Path) -> Path:
    """pytest's report of one test, slow or not, in a process that sees the copy only."""
    result = folder / "result.xml"
    options = [
        "-q",
        "-m",
        "",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--junitxml={result}",
        f"--basetemp={folder / 'tmp'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, node],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return result


def _judge(result: Path, sabotage: Sabotage) -> str:
    if not result.exists():
        raise NotProvedError(f"{sabotage.node}: pytest wrote no result")
    cases = list(ElementTree.parse(result).iter("testcase"))
    errors = [error for case in cases for error in case.iter("error")]
    failures = [failure.get("message") or "" for case in cases for failure in case.iter("failure")]
    if len(cases) != 1 or errors:
        said = (errors[0].get("message") or "")[:200] if errors else "collected nothing"
        raise NotProvedError(f"{sabotage.node}: {len(cases)} tests, {len(errors)} errors: {said}")
    if not failures:
        raise NotProvedError(f"{sabotage.node} passes although {sabotage.says}")
    if not failures[0].startswith(_ASSERTIONS):
        raise NotProvedError(f"{sabotage.node} failed by no assertion: {failures[0][:200]}")
    return failures[0].splitlines()[0]
