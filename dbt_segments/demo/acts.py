"""The demo's acts, and what must have happened in each. The tutorial tells the same story, with the same commands.

Each act types what a user would, then asks the sandbox who is in its audiences now.
"""

from __future__ import annotations

from dbt_segments.demo import changes
from dbt_segments.demo.changes import Change
from dbt_segments.demo.stage import Members, Stage

READERS = "meta: Newsletter readers"
LAPSED = "meta: Lapsed buyers"
# Google takes an upload as a job, which the next sync asks about.
JOB = "google_ads: Nordic customers"
_AUDIENCES = 12
_BOTH = "--select newsletter_readers lapsed_buyers"

# Of 17 members one platform makes 14 people, and another one 29.
_COUNTED = " (members who share a phone are one person to it, and so is each identifier that travels alone)"


def play(stage: Stage) -> list[str]:
    """All acts, up to the first that does not come as it must; what is wrong with that one, in words."""
    seeds = stage.folder / "seeds"
    stage.echo(f"1. A shop's dbt project in DuckDB; nine ad platforms and a CRM as a sandbox at {stage.serving.url}\n")
    stage.type("dbt deps --quiet")
    stage.type("dbt build --quiet")
    stage.type("dbt-segments validate")
    stage.type("dbt-segments sync --now")
    stage.show(_COUNTED)
    stage.echo("\nFiles were written, too; this one has the support rep of each customer, from another model:\n")
    stage.show_file("out/loyal_customers/*.csv", 4)
    first, sends = stage.members(), stage.sends()

    stage.echo("\n2. Once more: nothing has changed, so nothing is sent; what Google does as a job has ended\n")
    stage.type("dbt-segments sync --now")
    second, sent_again = stage.members(), stage.sends() - sends
    if wrong := judge_again(first, second, sent_again):
        return wrong

    change = changes.a_day(seeds)
    stage.echo(f"\n3. A change in the data: {change.says}\n")
    stage.type("dbt build --quiet")
    stage.type("dbt-segments plan --now --select newsletter_readers")
    stage.type("dbt-segments sync --now")
    stage.show()
    third = stage.members()
    if wrong := judge_change(second, third, change):
        return wrong

    changes.break_readers(stage.folder)
    changes.narrow_lapsed(stage.folder)
    stage.echo("\n4. Two edits: one segment finds nobody any more, another loses almost half. Both are held\n")
    stage.type(f"dbt build --quiet {_BOTH}")
    stage.type(f"dbt-segments sync --now {_BOTH}", code=1)
    if stage.members() != third:
        return ["a held sync changed an audience"]

    changes.mend_readers(stage.folder)
    stage.echo("\n5. The first edit was a mistake and is mended; the second was meant, and is released\n")
    stage.type("dbt build --quiet --select newsletter_readers")
    stage.type(f"dbt-segments sync --now {_BOTH} --allow-removals lapsed_buyers")
    released = stage.members()
    if wrong := judge_release(third, released):
        return wrong

    change = changes.a_day(seeds, newest=True)
    stage.echo(
        f"\n6. Another day: {change.says}. The platform takes that and does not answer, and the sync is killed\n"
    )
    stage.type("dbt build --quiet")
    stage.kill("dbt-segments sync --now --select newsletter_readers")
    stage.echo("\nNobody knows what arrived, but it was written down before it was sent. The next sync mends it:\n")
    stage.type("dbt-segments sync --now --select newsletter_readers")
    stage.show()
    if wrong := judge_change(released, stage.members(), change):
        return wrong
    stage.echo("\nAs it must be: each sync sent what had changed and nothing else, and nobody was lost.")
    return []


def judge_again(first: Members, second: Members, sent_again: int) -> list[str]:
    """What is wrong after the first sync and a second one with nothing changed; empty where all is as it must be.

    sent_again  requests of the second sync that changed something
    """
    at_once = {name: keys for name, keys in first.items() if name != JOB}
    checks = {
        "the first sync left an audience empty": len(first) == _AUDIENCES and all(at_once.values()),
        "the second sync sent something": sent_again == 0,
        "the second sync changed an audience": {name: second.get(name) for name in at_once} == at_once,
        "the job at Google has not ended": bool(second.get(JOB)),
    }
    return [text for text, holds in checks.items() if not holds]


def judge_change(before: Members, after: Members, change: Change) -> list[str]:
    """What is wrong after a change in the data."""
    had, has = before.get(READERS, frozenset()), after.get(READERS, frozenset())
    others = {name: keys for name, keys in before.items() if name != READERS}
    checks = {
        "the sync did not add exactly what came": has - had == change.came,
        "the sync did not remove exactly what left": had - has == change.gone,
        "the sync changed another audience": {name: after.get(name) for name in others} == others,
    }
    return [text for text, holds in checks.items() if not holds]


def judge_release(before: Members, after: Members) -> list[str]:
    """What is wrong after the release of a loss."""
    others = {name: keys for name, keys in before.items() if name != LAPSED}
    checks = {
        "the released sync removed nobody, or added somebody": after.get(LAPSED, frozenset()) < before[LAPSED],
        "the released sync emptied the audience": bool(after.get(LAPSED)),
        "the release changed another audience": {name: after.get(name) for name in others} == others,
    }
    return [text for text, holds in checks.items() if not holds]
