"""What goes wrong in a history: at the destination, in the process, in the state, with the clock.

`arm` draws faults for the next sync; `during` is that sync; `met` counts what really happened, by the names of `KINDS`.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from dbt_segments import warehouse
from dbt_segments.sandbox.app import Sandbox
from dbt_segments.sandbox.platform import Platform
from tests.properties import accidents
from tests.properties.accidents import Accident
from tests.properties.model import Unit, raw, sent
from tests.properties.shop import Shop, forgets, is_asynchronous, sweeps
from tests.scripted.server import ScriptedPlatform

# Fault -> what it is, and the invariants (docs/invariants.md) that it threatens.
KINDS: dict[str, tuple[str, str]] = {
    "killed": ("the process dies before or after a request, a log row, a pointer or a commit", "1, 2, 4, 5"),
    "commit_failed": ("a commit of the state fails and is rolled back", "1, 2, 3"),
    "commit_unanswered": ("a commit of the state is done, and nobody hears of it", "1, 2, 3"),
    "write_failed": ("a statement that writes state fails", "1, 2, 11"),
    "reset_before": ("the connection is cut before the server applied anything", "1, 2, 3"),
    "reset_after": ("the server applied the request, then the connection is cut", "2, 3, 4"),
    "duplicate": ("a request arrives twice", "2, 4"),
    "status_429": ("too many requests", "1, 3"),
    "status_5xx": ("a server error, the request applied or not", "2, 3, 4"),
    "status_400": ("the whole request is refused", "3, 7, 11"),
    "unreadable": ("status 200 with a page, half an answer or none, the request applied or not", "2, 3"),
    "expired_token": ("the token was good until now", "1, 3"),
    "partial": ("rows of a batch are not taken, and not named", "3, 7"),
    "refused": ("rows of a batch are refused by their index", "4, 7"),
    "too_small": ("a removal is refused because the audience would become too small", "5, 7"),
    "gone": ("the audience is not there for one moment", "4, 12"),
    "deleted": ("the audience is deleted at the platform", "11, 12"),
    "job_failed": ("an accepted job fails late, with nothing applied", "3, 4"),
    "job_lost": ("the status of an accepted job is gone, the job applied or not", "3, 4, 5"),
    "clock": ("the clock of the warehouse jumps, back or ahead, by hours or weeks", "1, 8"),
    "held": ("dbt's build of the segment failed, or the segment is empty", "9, 13"),
    "not_allowed": ("the sync runs on a dbt target that may not send", "6, 9"),
    "not_due": ("the sync runs when its schedule has no slot", "1, 13"),
}
_AT_SERVER = (
    "reset_before",
    "reset_after",
    "reset_after",
    "status",
    "status",
    "throttle",
    "duplicate",
    "too_small",
    "partial",
    "html",
    "truncated",
    "empty",
    "expired_token",
    "gone",
)
_HOUR_S = 3_600
_JUMPS_S = (-3 * 24 * _HOUR_S, -_HOUR_S, _HOUR_S, 2 * 24 * _HOUR_S, 45 * 24 * _HOUR_S)


class Faults:
    """The faults of one history.

    takes_all   in this history the destination refuses and drops no row: a plain sync must do in the end
    poison      units that the destination refuses now
    needs_full  rows were refused or dropped: only a full resync surely brings them
    gone        the connection whose audience is deleted
    others      whom others put into an audience that is replaced in two steps
    """

    def __init__(self, shop: Shop, rng: random.Random, fields: dict[str, str], say: Callable[[str], None]) -> None:
        self._shop = shop
        self.rng = rng
        self._fields = fields
        self._say = say
        self._accident: Accident | None = None
        self._seen = 0
        self._ended: set[str] = set()
        self._ahead_s = 0
        self.met: Counter[str] = Counter()
        self.takes_all = rng.random() < 0.5
        self.poison: set[Unit] = set()
        self.needs_full = False
        self.gone: str | None = None
        self.others: set[Unit] = set()
        if self._scripted is not None:
            self._scripted.policy["rotate"] = False  # nobody keeps the token that a refresh brings

    # -- the destination ----------------------------------------------------------------------------------

    @property
    def sandbox(self) -> Sandbox:
        """The history's own."""
        assert self._shop.world.serving is not None
        return self._shop.world.serving.sandbox

    @property
    def _scripted(self) -> ScriptedPlatform | None:
        found = self.sandbox.platforms.get(ScriptedPlatform.name)
        assert found is None or isinstance(found, ScriptedPlatform)
        return found

    @property
    def platform(self) -> Platform:
        """The only one."""
        return next(iter(self.sandbox.platforms.values()))

    def arm(self) -> None:
        """Draw faults for the next sync."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            fault = self._draw()
            self.sandbox.faults.add(fault)
            self._say(f"  fault {fault}")
        if rng.random() < 0.35:
            self._accident = accidents.draw(rng)
            self._say(f"  accident {self._accident}")
        if rng.random() < 0.15:
            self._jump()
        if rng.random() < 0.08:
            self._delete()
        if rng.random() < 0.3 and any(map(sweeps, self._shop.shapes.values())):
            self.others_enter()
        if self._scripted is not None:
            self._policies(self._scripted)

    def _draw(self) -> dict[str, Any]:
        rng, replaces = self.rng, set(self._shop.shapes.values()) == {"scripted_replace"}
        fault: dict[str, Any] = {"kind": rng.choice(_AT_SERVER)}
        if fault["kind"] == "partial" and self.takes_all:
            fault["kind"] = "reset_after"
        op = rng.choice(("add", "remove", "remove", "replace", "poll", "create", "find", "get", "token", None))
        op = "sweep" if op in ("replace", "token") and any(map(sweeps, self._shop.shapes.values())) else op
        op = "replace" if replaces and op in ("add", "remove") else op
        if fault["kind"] == "status":
            fault["status"] = rng.choice((500, 503, 429, 400))
            fault["applied"] = fault["status"] >= 500 and rng.random() < 0.4
        elif fault["kind"] in ("html", "truncated", "empty"):
            fault["applied"] = rng.random() < 0.5
        elif fault["kind"] == "too_small":
            op = "remove"
        elif fault["kind"] == "partial":
            op = "replace" if replaces else "add"
        elif fault["kind"] == "duplicate" and op not in ("add", "remove", "replace", "sweep"):
            op = "add"  # a creation that arrives twice makes two lists whatever the sender does
        fault |= {"times": rng.choice((1, 2, 2, 3)), "after": rng.choice((0, 0, 0, 1, 2))}
        return fault | ({"match": {"op": op}} if op is not None else {})

    def _policies(self, platform: ScriptedPlatform) -> None:
        rng, policy = self.rng, platform.policy
        if any(is_asynchronous(shape) for shape in self._shop.shapes.values()):
            policy["finish_after_polls"] = rng.choice((1, 1, 2, 3))
            policy["stagger"] = rng.choice((1, 2, 3))
            policy["fail_after_polls"] = rng.choice((None, None, 1, 2))
            policy["lose_after_polls"] = rng.choice((None, None, 1, 2))
            policy["lost_applied"] = rng.random() < 0.5
        if rng.random() < 0.3 and not self.takes_all:
            found = sorted(self._shop.truth.allowed())
            self.poison = set(rng.sample(found, min(len(found), rng.choice((0, 1, 2)))))
            policy["refuse"] = {value: "unwelcome" for _, value in sent(self.poison, self._fields)}
        changed = {k: v for k, v in policy.items() if k != "refuse" and v != platform.defaults.get(k)}
        self._say(f"  policy {changed}, refuses {sorted(self.poison)}")

    def _delete(self) -> None:
        """Delete an audience behind the sender's back, one of which the state knows that it was made."""
        connection = self.rng.choice(sorted(self._shop.shapes))
        known = self._on_record()
        with self.sandbox.lock:
            for audience in self.platform.audiences.values():
                ours = audience.account == self.account(connection) and audience.id in known
                if self.gone is None and not audience.deleted and ours:
                    audience.deleted = True
                    self.gone = connection
                    self._say(f"  audience {audience.id} is deleted")

    def others_enter(self) -> None:
        """Somebody else puts people into an audience that is replaced in two steps."""
        with self.sandbox.lock:
            for audience in self.platform.audiences.values():
                if audience.account in self._shop.shapes.values() and sweeps(audience.account) and not audience.deleted:
                    unit = raw("email", -self.rng.randint(1, 2)).unit
                    assert unit is not None
                    ((_, value),) = sent({unit}, self._fields)
                    audience.members.add([self.platform.codec.encode("email", value)], self.sandbox.clock.today())
                    self.others.add(unit)
                    self._shop.changed["others enter"] += 1
                    self._say(f"  others put {unit[1]} in")

    def _on_record(self) -> set[str]:
        """Ids of audiences in the state. One whose creation was never answered may be made again: nobody was in it."""
        schema = f"{self._shop.world.warehouse.schema}_dbt_segments"
        tables = f"select 1 from information_schema.tables where table_schema = '{schema}' and table_name = 'audiences'"
        if not self._shop.world.sql(tables):
            return set()
        return {row[0] for row in self._shop.world.state("audiences", "audience_id", "event = 'created'")}

    def account(self, connection: str) -> str:
        """The account of a connection, as the sandbox names it."""
        shape = self._shop.shapes[connection]
        return str(self._shop.world.meta()["ad_account_id"]) if shape == "meta" else shape

    def recover_gone(self) -> None:
        """What the message asks for: the audience is restored at the platform, or the sync gets a new `id:`."""
        if self.gone is None:
            return
        connection, self.gone = self.gone, None
        if self.rng.random() < 0.5:
            with self.sandbox.lock:
                mine = [one for one in self.platform.audiences.values() if one.account == self.account(connection)]
                mine[-1].deleted = False
            self._say("  the audience is restored")
            return
        number = len(self._shop.ids) + self.met["deleted"] + 1
        self._shop.ids[connection] = f"again-{number}"
        self._say(f"  the sync to {connection} is called again-{number} now")
        if len(self._shop.shapes) == 1:
            self._shop.truth.ever.clear()  # the new sync has sent nothing to anybody

    # -- the process, the state, the clock ----------------------------------------------------------------

    def _jump(self) -> None:
        seconds = self.rng.choice(_JUMPS_S)
        if any(map(forgets, self._shop.shapes.values())):
            seconds = abs(seconds)  # where the warehouse's days are fewer than the platform's, nobody is sent in time
        self.pass_time(seconds)

    def pass_time(self, seconds: int) -> None:
        """The warehouse's clock jumps; the platform's does where it is ahead."""
        self._ahead_s += seconds
        self.sandbox.clock.advance(max(0, seconds))
        self.met["clock"] += 1
        self._say(f"  the clock jumps by {seconds / _HOUR_S:.0f} h")

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Within it the drawn accident happens, and the warehouse's clock says what it says now."""
        accident, self._accident = self._accident, None
        with contextlib.ExitStack() as stack:
            for kind in (warehouse._DuckDB, warehouse._Postgres):
                jumped = f"({kind.now} + interval '{self._ahead_s} second')"
                stack.enter_context(mock.patch.object(kind, "now", jumped))
            if accident is not None:
                stack.enter_context(accidents.happening(accident, self.met))
            yield

    # -- afterwards ---------------------------------------------------------------------------------------

    def mend(self) -> None:
        """No fault is left; what a deleted audience needs is for `recover_gone`."""
        self.sandbox.faults.clear()
        self._accident = None
        self.poison = set()
        if self._scripted is not None:
            self._scripted.policy.update(
                finish_after_polls=1,
                stagger=1,
                fail_after_polls=None,
                lose_after_polls=None,
                lost_applied=False,
                refuse={},
            )

    def calls(self) -> list[dict[str, Any]]:
        """What the destination was asked since the last time that somebody asked; counts the faults among it."""
        with self.sandbox.lock:
            new = [call for call in self.sandbox.calls if call["n"] > self._seen]
            self._seen = self.sandbox.made
            jobs = dict(self._scripted.jobs) if self._scripted is not None else {}
        for call in new:
            self.needs_full |= call["fault"] == "partial" or bool(call.get("refused"))
            if call["fault"]:
                self.met[_kind(call)] += 1
            else:
                self.met["refused"] += call.get("refused", 0)
        for job in jobs.values():
            if job.id not in self._ended and job.state != "running":
                self._ended.add(job.id)
                self.needs_full |= bool(job.refused)
                self.met["refused"] += len(job.refused)
                self.met[f"job_{job.state}"] += job.state != "done"
        del self.met["job_done"]
        return new


def _kind(call: dict[str, Any]) -> str:
    """The name in `KINDS` of the fault that a call met."""
    fault, status = str(call["fault"]), int(call["status"])
    if fault in ("html", "truncated", "empty"):
        return "unreadable"
    if fault == "throttle":
        return "status_429"
    if fault == "status":
        return "status_5xx" if status >= 500 else f"status_{status}"
    return fault
