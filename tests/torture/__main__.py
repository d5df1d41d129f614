"""`python -m tests.torture`: histories and kills until the counts or the seconds are reached; see docs/reliability.md.

python -m tests.torture play --histories 2000 --postgres 200 --kills 50 --results torture.jsonl
python -m tests.torture replay history duckdb 17 scripted_async
python -m tests.torture report torture.jsonl --add --write
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

from tests.properties.history import EVERY_SHAPE
from tests.torture import report, runner
from tests.torture.kills import KILLS_A_ROUND, KINDS


def main() -> int:
    """Parse the options and do it; 1 where anything diverged."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    play = commands.add_parser("play", help="play what the results file does not have yet")
    play.add_argument("--histories", type=int, default=100, help="on DuckDB")
    play.add_argument("--postgres", type=int, default=10, help="histories on PostgreSQL")
    play.add_argument("--kills", type=int, default=5, help=f"rounds of {KILLS_A_ROUND} kills of real processes")
    play.add_argument("--seconds", type=float, default=1e9, help="begin nothing after so many seconds")
    play.add_argument("--seed", type=int, default=None, help="of the first history; default: a fresh one")
    play.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    play.add_argument("--results", type=Path, default=Path("torture.jsonl"), help="one JSON record a line, appended")
    again = commands.add_parser("replay", help="play one job again, in this process")
    again.add_argument("kind", choices=["history", *sorted({kind for kind, _, _ in KINDS})])
    again.add_argument("warehouse", choices=["duckdb", "postgres"])
    again.add_argument("seed", type=int)
    again.add_argument("shape", choices=EVERY_SHAPE, nargs="?", default=EVERY_SHAPE[0])
    told = commands.add_parser("report", help="print what results files say; write docs/torture.json with --write")
    told.add_argument("results", type=Path, nargs="+")
    told.add_argument("--write", action="store_true")
    told.add_argument("--add", action="store_true", help="to the figures that docs/torture.json has")
    options = parser.parse_args()
    if options.command == "replay":
        record = runner.again(runner.Job(options.kind, options.warehouse, options.seed, options.shape))
        print(record["error"] or record)
        return bool(record["error"])
    if options.command == "report":
        figures = report.figures([one for path in options.results for one in runner.read(path)])
        if options.add:
            figures = report.together(report.kept(), figures)
        if options.write:
            report.write(figures)
        print(report.text(figures))
        return bool(figures["divergences"])
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**8) * 10
    print(f"seed {seed}, results in {options.results}", flush=True)
    wanted = runner.Wanted(options.histories, options.postgres, options.kills, options.seconds, seed)
    try:
        figures = report.figures(runner.play(wanted, options.results, max(1, options.workers)))
    except KeyboardInterrupt:
        print(f"interrupted; --seed {seed} goes on with {options.results}")
        return 130
    print(report.text(figures))
    return bool(figures["divergences"])


if __name__ == "__main__":
    raise SystemExit(main())
