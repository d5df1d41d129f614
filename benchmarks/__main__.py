"""Side by side: this project, the bare limit, and the peers that install.

    python -m benchmarks --members 100000 --runs 3

Every run starts with a fresh copy of the same warehouse and does three syncs: the first one, one where nothing has
changed, and one where 1 % have another e-mail and 0.1 % have left. The tools take turns, so that a machine that gets
slower meanwhile slows all of them down. After each sync the server's members are compared with the segment.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks import peers, sink, tools
from benchmarks.compare import compare
from benchmarks.results import table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Syncs, measured side by side.")
    parser.add_argument("--members", type=int, default=100_000, help="of the segment")
    parser.add_argument("--runs", type=int, default=3, help="of each tool; medians are reported")
    parser.add_argument("--no-peers", action="store_true", help="install nothing")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="where the figures are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sink.running() as server:
        folder = Path(name)
        found = [] if options.no_peers else [peers.install(peer, folder) for peer in peers.PEERS]
        rivals = [tool for tool in found if isinstance(tool, tools.Tool)]
        absent = [tool for tool in found if isinstance(tool, peers.Absent)]
        measured = compare([tools.limit(), tools.ours(), *rivals], options.members, options.runs, folder, server)
    results = {**measured, "absent": [vars(tool) for tool in absent]}
    options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
