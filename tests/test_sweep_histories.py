"""Random histories of a `mode: replace` at Google: whatever happens in between, nobody of ours is swept out.

A member of ours is one whom the list held after a run that said that all is well, when no job was running, and who has
been in the segment ever since. Others may be in the list before, members to come among them, and are gone in the end.

Each history has a new seed, which a failure prints; `SWEEP_SEED` plays that one again, `SWEEP_HISTORIES` says how many.
"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable

import pytest

from tests.test_google_ads_replace import SYNC, emails, enter, fault, pass_days, platform, until_quiet, world
from tests.world import World

__all__ = ["world"]  # a fixture

pytestmark = pytest.mark.slow

STEPS = 24
PEOPLE = {number: f"person{number}@example.com" for number in range(1, 9)}
OTHERS = [f"other{number}@example.com" for number in range(3)]


class History:
    """One history: a world, and what must hold of it after each step."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.name = "vip"
        self.wanted: set[int] = set()
        self.mine: set[int] = set()
        self.told: list[str] = ["sync"]

    def play(self) -> None:
        self.world.variables = {"hold": {"empty": "ignore", "remove_members": 0, "remove_fraction": 1.0}}
        self.world.customers(list(PEOPLE.items()))
        self.want({1, 2, 3})
        self.sync()
        steps: list[Callable[[], None]] = [
            *[self.sync] * 8,
            *[self.change] * 3,
            self.others_enter,
            self.others_enter,
            self.time_passes,
            self.jobs_take_longer,
            self.a_job_fails,
            self.a_request_fails,
            self.a_request_fails,
            self.hold,
            self.rename,
        ]
        for _ in range(STEPS):
            step = self.random.choice(steps)
            self.told.append(step.__name__)
            step()
            self.check()
        self.settle()

    def want(self, keys: set[int]) -> None:
        self.told.append(f"want {sorted(keys)}")
        self.wanted = keys
        self.mine &= keys
        self.world.segment(sorted(keys), self.name)

    def check(self) -> None:
        held = self.world.held()
        lost = {key for key in self.mine if not emails(PEOPLE[key]) <= held}
        assert not lost, f"{lost} after {'; '.join(self.told)}"

    # -- steps ------------------------------------------------------------------------------------------------

    def sync(self, **options: bool) -> None:
        result = self.world.sync(**{"full": self.random.random() < 0.1, **options})
        notes = [note for note in result.notes if "replace" in note or "job" in note]
        self.told[-1] += f" -> {result.status} {[c['op'] for c in self.world.calls()][-6:]} {notes}"
        self.check()
        running = any(job.state == "PROCESSING" for job in platform(self.world).jobs.values())
        if result.status in ("success", "noop") and not running:
            held = self.world.held()
            self.mine = {key for key in self.wanted if emails(PEOPLE[key]) <= held}

    def change(self) -> None:
        self.want(set(self.random.sample(sorted(PEOPLE), self.random.randint(0, 6))))

    def others_enter(self) -> None:
        """Strangers, and people who may become ours."""
        for address in [self.random.choice(OTHERS), *self.random.sample(sorted(PEOPLE.values()), 4)]:
            enter(self.world, address)

    def time_passes(self) -> None:
        """More than a sweep without an answer may take."""
        assert self.world.serving is not None
        self.world.serving.sandbox.clock.advance(48 * 3600)
        pass_days(self.world, 2, "sync_batches", "pointers")

    def jobs_take_longer(self) -> None:
        platform(self.world).policy["polls"] = self.random.randint(1, 3)

    def a_job_fails(self) -> None:
        how = self.random.choice([{"fail": "INTERNAL_ERROR"}, {"lose": 1}, {"forget_jobs": True}])
        platform(self.world).policy.update(how)
        self.sync()
        platform(self.world).policy.update(fail=None, lose=0, forget_jobs=False)

    def a_request_fails(self) -> None:
        kind = self.random.choice(["reset_before", "reset_after", "status", "partial"])
        op = self.random.choice(["add", "add", "remove", "sweep"])
        status = {"status": 400} if kind == "status" else {}
        self.told.append(f"{kind} of {op}")
        fault(self.world, kind=kind, match={"op": op}, times=self.random.choice([1, 20]), **status)
        if op == "add":
            self.others_enter()
            self.change()
        self.sync()
        assert self.world.serving is not None
        self.world.serving.sandbox.faults.clear()

    def hold(self) -> None:
        terms = self.world.connections["google_ads"].pop("customer_match_terms")
        self.sync()
        self.world.connections["google_ads"]["customer_match_terms"] = terms

    def rename(self) -> None:
        """To another name, or back; a deployment under the old name may run once more."""
        before, segments = self.name, self.world.segments
        self.name = "vip2" if before == "vip" else "vip"
        self.world.segments = {self.name: {"label": "VIP buyers", "renamed_from": [before], "syncs": [SYNC]}}
        self.want(self.wanted)
        self.sync()
        if self.random.random() < 0.5:
            after = self.world.segments
            self.world.segments = segments
            self.world.segment(sorted(self.wanted), before)
            self.sync()
            self.world.segments = after

    def settle(self) -> None:
        """After the faults: a change, and as many runs as the jobs need; the list is the segment."""
        self.told.append("settle")
        platform(self.world).policy["polls"] = 1
        until_quiet(self.world, set())
        self.time_passes()
        self.want({1, 2, 3} if self.wanted != {1, 2, 3} else {1, 2})
        self.told += [" ".join(one.notes) for one in until_quiet(self.world, set(), most=20)]
        assert self.world.held() == emails(*(PEOPLE[key] for key in self.wanted)), "; ".join(self.told)


@pytest.mark.parametrize("number", range(int(os.environ.get("SWEEP_HISTORIES", "4"))))
def test_nobody_of_ours_is_swept_out(world: World, number: int) -> None:
    seed = int(os.environ.get("SWEEP_SEED") or secrets.randbits(32))
    print(f"seed {seed}")
    History(world, seed).play()
