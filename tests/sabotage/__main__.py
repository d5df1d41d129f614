"""`python -m tests.sabotage [word ...]`: prove every sabotage, or those whose line holds one of the words."""

from __future__ import annotations

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.sabotage.cases import SABOTAGES, Sabotage
from tests.sabotage.runner import NotProvedError, prove


def attempt(sabotage: Sabotage) -> tuple[bool, str]:
    with tempfile.TemporaryDirectory(prefix="sabotage-") as folder:
        try:
            return True, prove(sabotage, Path(folder))
        except NotProvedError as error:
            return False, str(error)


def main(words: list[str]) -> int:
    chosen = [one for one in SABOTAGES if not words or any(word in f"{one.id} {one.test}" for word in words)]
    missed = 0
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for one, (proved, said) in zip(chosen, pool.map(attempt, chosen), strict=True):
            missed += not proved
            print(f"{'noticed' if proved else 'MISSED '}  {one.invariant:>2}  {one.says}: {said[:150]}", flush=True)
    print(f"{len(chosen)} sabotages, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
