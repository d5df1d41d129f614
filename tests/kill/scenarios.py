"""The two syncs that are killed, stopped and overtaken: a first one, and one in which everything changes."""

from __future__ import annotations

from tests.kill.harness import Data, check_members, sync
from tests.world import World


def a_first_sync() -> Data:
    """Five who may be sent, in three requests; two share a phone, one refuses, of one consent is not known."""
    return Data(
        customers={
            1: ("a@example.com", "2015550101", True),
            2: ("b@example.com", "2015550102", True),
            3: ("c@example.com", "2015550102", True),
            4: ("d@example.com", None, True),
            5: (None, "2015550105", True),
            6: ("f@example.com", "2015550106", False),
            7: ("g@example.com", None, None),
        },
        members={1, 2, 3, 4, 5, 6, 7},
    )


def before_the_change() -> Data:
    """Those who were synced before `a_change`."""
    return Data(
        customers={
            1: ("a@example.com", "2015550101", True),
            2: ("b@example.com", "2015550102", True),
            3: ("c@example.com", "2015550102", True),
            4: ("shared@example.com", "2015550104", True),
            5: ("shared@example.com", None, True),
            6: ("f@example.com", "2015550106", True),
            7: ("g@example.com", "2015550101", True),
            8: ("h@example.com", None, True),
            9: ("i@example.com", "2015550109", True),
        },
        members={1, 2, 3, 4, 5, 6, 7, 8},
    )


def a_change() -> Data:
    """2 leaves and 3 keeps the phone they share; 4 leaves, 5 has the same e-mail; 6 has a new e-mail; 7 refuses and
    shares a phone with 1, who stays; 8 was deleted; 9, 10 and 11 come, 10 with the e-mail that 8 had."""
    found = before_the_change()
    found.customers[6] = ("f-new@example.com", "2015550106", True)
    found.customers[7] = ("g@example.com", "2015550101", False)
    del found.customers[8]
    found.customers[10] = ("h@example.com", "2015550110", True)
    found.customers[11] = ("k@example.com", None, True)
    found.members = {1, 3, 5, 6, 7, 8, 9, 10, 11}
    return found


SCENARIOS = {"first": (None, a_first_sync()), "change": (before_the_change(), a_change())}


def prepare(world: World, scenario: str) -> Data:
    """The world right before the sync that is to be killed; returns what that sync must bring about."""
    before, after = SCENARIOS[scenario]
    if before is not None:
        before.write(world)
        sync(world)
        check_members(world, before.expected())
    after.write(world)
    return after
