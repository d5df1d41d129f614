"""What a receiver's answers mean: by status, and row by row where it says so.

Of its words only a code is kept, and only where it looks like one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from dbt_segments.destinations.base import Fault, Outcome, Reply
from dbt_segments.errors import AuthError, GoneError, RefusedError, TransientError, UnknownError

LONGEST_WAIT_S = 300.0
LONGEST_ANSWER_BYTES = 1_000_000
ALLOWED_SKEW_S = 300
_NOT_APPLIED = {408, 425, 429}
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")


def classify(reply: Reply, now: datetime) -> Fault | None:
    """The fault of a reply; None for any 2xx."""
    status, code = reply.status, str(reply.status)
    if 200 <= status < 300:
        return None
    if status in _NOT_APPLIED:
        error = TransientError(f"webhook: not now ({code})", code=code)
        return Fault(error, retry=True, longest_wait_s=LONGEST_WAIT_S)
    if status >= 500:
        return Fault(
            UnknownError(f"webhook: server error {code}", code=code), retry=True, longest_wait_s=LONGEST_WAIT_S
        )
    if status in (401, 403):
        hint = _clock_hint(reply, now) or "check `secret` and `headers`"
        return Fault(AuthError(f"webhook: refused with {code}", code=code, hint=hint))
    if status == 410:
        hint = "the receiver has withdrawn: ask its owner, then disable this sync or change `url`"
        return Fault(GoneError("webhook: the receiver takes no events any more", code=code, hint=hint))
    if status == 413:
        message = "webhook: the request was too large for the receiver"
        return Fault(RefusedError(message, code=code, hint="lower max_bytes or batch_size", divisible=True))
    return Fault(RefusedError(f"webhook: refused with {code}", code=code, hint=_clock_hint(reply, now)))


def outcome_of(reply: Reply, count: int) -> Outcome:
    """What a success says of `count` rows: without a word of single rows they are all accepted.

    With `results`, a row without one has failed. Raises UnknownError for an entry that names no row.
    """
    answer = reply.json if isinstance(reply.json, dict) and not _is_long(reply) else {}
    results, errors = answer.get("results"), answer.get("errors")
    if isinstance(results, list):
        failed = {_index(entry): entry for entry in results if not _is_ok(entry)}
        named = {_index(entry) for entry in results}
        missing = dict.fromkeys(set(range(count)) - named, "no_result")
        return _refused(failed, missing)
    if isinstance(errors, list):
        return _refused({_index(entry): entry for entry in errors}, {})
    return Outcome()


def _refused(failed: Mapping[int, Any], missing: Mapping[int, str]) -> Outcome:
    codes = {index: _code(entry) for index, entry in failed.items()}
    passing = {index for index, entry in failed.items() if entry.get("retryable") is True}
    return Outcome(refused={**codes, **missing}, passing=frozenset(passing | set(missing)))


def _is_ok(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("status") in ("ok", "success", "accepted")


def _index(entry: Any) -> int:
    index = entry.get("index") if isinstance(entry, dict) else None
    if not isinstance(index, int) or isinstance(index, bool):
        raise UnknownError("webhook: the answer holds a result without an index", code="index")
    return index


def _code(entry: Mapping[str, Any]) -> str:
    code = str(entry.get("code") or "")
    return code if _CODE.fullmatch(code) else "refused"


def _is_long(reply: Reply) -> bool:
    length = reply.headers.get("content-length", "")
    return length.isdigit() and int(length) > LONGEST_ANSWER_BYTES


def _clock_hint(reply: Reply, now: datetime) -> str | None:
    """A hint where the receiver's clock and ours are further apart than receivers allow."""
    try:
        theirs = parsedate_to_datetime(reply.headers.get("date", ""))
    except (TypeError, ValueError):
        return None
    if theirs.tzinfo is None:
        theirs = theirs.replace(tzinfo=timezone.utc)
    skew_s = abs((now - theirs).total_seconds())
    return f"this machine's clock differs by {skew_s:.0f} s" if skew_s > ALLOWED_SKEW_S else None
