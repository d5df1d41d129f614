"""`python -m dbt_segments.sandbox`: print the URL in one line, then serve until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import gc
import sys

from dbt_segments.sandbox import server


def main() -> None:
    """Parse the options and serve."""
    parser = argparse.ArgumentParser(prog="python -m dbt_segments.sandbox", description=__doc__)
    parser.add_argument("--port", type=int, default=8199, help="loopback port; 0 takes any free one (default 8199)")
    parser.add_argument("--platform", action="append", choices=sorted(server.platforms()), help="may be repeated")
    parser.add_argument("--state", metavar="FILE", help="keep members in this file from one start to the next")
    options = parser.parse_args()
    # Millions of members live on one dictionary, and a full collection would walk it every few requests.
    gc.set_threshold(50_000, 50, 1_000)
    server.run(
        port=options.port,
        sandbox=server.build(options.platform or tuple(server.platforms())),
        state_file=options.state,
        ready=_announce,
    )


def _announce(url: str) -> None:
    sys.stdout.write(url + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
