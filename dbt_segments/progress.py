"""What a run is doing, on stderr: one line that rewrites itself on a terminal, plain lines elsewhere.

No colour and no control sequence but the carriage return, so `NO_COLOR` and dumb terminals have nothing to turn off.
"""

from __future__ import annotations

import shutil
from threading import Lock
from types import TracebackType
from typing import TextIO


class Progress:
    """A callable for `progress(sync_id, text)`, safe to call from several threads; leaving it clears its line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._shown = 0
        self._lock = Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._rewrite("")

    def __call__(self, sync_id: str, text: str) -> None:
        line = f"{sync_id}: {text}" if sync_id else text
        with self._lock:
            if self._rewrites:
                self._rewrite(line)
            else:
                self._stream.write(line + "\n")
                self._stream.flush()

    def _rewrite(self, line: str) -> None:
        """Put `line` over what is shown; an empty one leaves the cursor at the start of an empty line."""
        if not (line or self._shown):
            return
        line = line[: shutil.get_terminal_size().columns - 1]
        blank = " " * max(0, self._shown - len(line))
        self._stream.write(f"\r{line}{blank}" + ("" if line else "\r"))
        self._stream.flush()
        self._shown = len(line)
