"""The platforms as a local HTTP server with memory, for the demo, dev targets and tests.

It shares no code with the engine: what the engine gets wrong about a platform must not be right here for the same
reason. `serve()` runs it inside a process, `python -m dbt_segments.sandbox` in the foreground.
"""

from __future__ import annotations

from dbt_segments.sandbox.server import Serving, build, run, serve

__all__ = ["Serving", "build", "run", "serve"]
