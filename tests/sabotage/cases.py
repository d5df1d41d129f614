"""The table: for each invariant what is broken, and the test that must fail for it.

`old` is part of one or more lines and occurs exactly once in its file; a sabotage that no longer applies is a failure,
so whoever changes such a line decides here what its sabotage is now.
"""

from __future__ import annotations

from dataclasses import dataclass

INVARIANTS = range(1, 14)


@dataclass(frozen=True)
class Sabotage:
    """One way to break an invariant.

    says  what the broken product does
    file  below dbt_segments/
    test  a test of tests/test_invariants.py on the `warehouse`; `case` its further parameters
    """

    invariant: int
    says: str
    file: str
    old: str
    new: str
    test: str
    case: str = ""
    warehouse: str = "duckdb"

    @property
    def id(self) -> str:
        return f"{self.invariant}-{self.says.replace(' ', '-')}"

    @property
    def node(self) -> str:
        """The test on one warehouse alone."""
        parameters = "-".join(part for part in (self.warehouse, self.case) if part)
        return f"tests/test_invariants.py::{self.test}[{parameters}]"


SABOTAGES = (
    Sabotage(
        1,
        "a changed row is not looked at",
        "diff.py",
        "or x.old_row_hash <> x.row_hash",
        "",
        "test_1_converges",
    ),
    Sabotage(
        1,
        "who left is not looked at",
        "diff.py",
        "or (not x.wanted and x.m_status is not null and (x.m_status <> 'covered' or {explicit} or x.flagged){kept})))",
        "))",
        "test_1_converges",
    ),
    Sabotage(
        2,
        "batches are not logged before they are sent",
        "deliver.py",
        "self._record(generation, stage, done, wave, delivery)",
        "self._record(generation, stage, done, [], delivery)",
        "test_2_what_is_sent_was_written_before",
    ),
    Sabotage(
        2,
        "the intention to make an audience is not written",
        "audiences.py",
        'self._record(sync, Audience("", name), "intended", mark)',
        "pass",
        "test_2_what_is_sent_was_written_before",
    ),
    Sabotage(
        2,
        "an addition without an answer counts as not sent",
        "state/fold.py",
        "where phase in ('assert', 'replace') and fate in ('accepted', 'sending', 'unknown')",
        "where phase in ('assert', 'replace') and fate = 'accepted'",
        "test_2_a_member_whose_addition_was_not_answered_is_removed",
        "reset_after",
    ),
    Sabotage(
        3,
        "an accepted job counts as finished",
        "parts.py",
        '"accepted" if outcome.job is None else "submitted"',
        '"accepted"',
        "test_3_an_accepted_job_is_not_a_finished_one",
    ),
    Sabotage(
        3,
        "a job whose status is lost counts as done",
        "recovery.py",
        'state = "unknown" if outcome.lost else "rejected"',
        'state = "rejected"',
        "test_3_a_job_that_failed_or_is_unknown_acknowledges_nobody",
        "failed",
    ),
    Sabotage(
        3,
        "a job that ends well makes up for a refused removal",
        "state/fold.py",
        "(x.fate <> 'accepted' or x.phase = 'covered')",
        "x.phase = 'covered'",
        "test_3_a_job_that_ends_well_makes_up_for_no_refused_removal",
        "scripted_async",
    ),
    Sabotage(
        4,
        "units that a current member has are removed",
        "order.py",
        ") as covered\n",
        ") and false as covered\n",
        "test_4_an_identifier_is_compared_as_the_platform_reads_it",
    ),
    Sabotage(
        4,
        "additions go before removals",
        "deliver.py",
        "for stage in OPS:",
        "for stage in reversed(OPS):",
        "test_4_removals_come_first_and_their_neighbours_are_asserted_again",
    ),
    Sabotage(
        4,
        "neighbours of a removal are not asserted again",
        "diff.py",
        "_spread(session, inputs.ledger, seen)",
        "pass",
        "test_4_a_shared_identifier_stays_with_who_stays",
    ),
    Sabotage(
        5,
        "an unconfirmed removal is forgotten",
        "state/fold.py",
        "where (phase in ('remove', 'leave') and fate = 'accepted') or phase = 'forgotten'",
        "where phase in ('remove', 'leave', 'forgotten')",
        "test_5_what_was_sent_stays_on_record_until_its_removal_is_confirmed",
    ),
    Sabotage(
        6,
        "an audience of that name is taken for ours",
        "audiences.py",
        "ours = [a for a in found if self._is_ours(a, sync)]",
        "ours = found",
        "test_6_an_audience_of_the_same_name_is_not_taken",
    ),
    Sabotage(
        6,
        "a second sync may use the audience",
        "audiences.py",
        "        if other:\n",
        "        if False:\n",
        "test_6_a_second_sync_is_refused_at_run_time",
    ),
    Sabotage(
        7,
        "a refused row counts as accepted",
        "state/fold.py",
        "when r.row_seq is not null then 'rejected' {half}",
        "{half}",
        "test_7_a_row_that_the_destination_refuses_costs_itself",
    ),
    Sabotage(
        7,
        "a refused removal is not owed",
        "deliver.py",
        'state = "rejected" if sent.fate == "unsent" else sent.fate',
        'state = "accepted" if sent.fate == "rejected" else sent.fate',
        "test_7_a_removal_that_is_refused_stays_owed",
    ),
    Sabotage(
        8,
        "a run takes no lock",
        "project.py",
        "stack.enter_context(locks.file_lock(state_profile.path, lock_timeout_s, tell))",
        "pass",
        "test_8_a_second_run_stops_while_the_first_one_sends",
    ),
    Sabotage(
        9,
        "the threshold on removals never holds",
        "guard.py",
        "if found.losing > hold.remove_members and",
        "if False and",
        "test_9_a_mistake_upstream_empties_no_audience",
        "shrunk",
    ),
    Sabotage(
        9,
        "a table built with --empty is sent",
        "builds.py",
        "    if build.empty:\n",
        "    if False:\n",
        "test_9_what_dbt_did_not_build_whole_is_not_sent",
        "empty",
    ),
    Sabotage(
        9,
        "a release is for every sync",
        "pipeline.py",
        "bool({item.id, item.segment.name} & set(self._request.allow_removals))",
        "bool(self._request.allow_removals)",
        "test_9_a_release_is_for_one_sync_and_one_run",
        "vip",
    ),
    Sabotage(
        10,
        "a hash is hashed again",
        "identifiers/encode.py",
        'f"coalesce(digest_{i}, {hashed})"',
        "hashed",
        "test_10_a_hash_is_not_hashed_again",
    ),
    Sabotage(
        10,
        "identifiers travel in the URL",
        "destinations/meta.py",
        'Call("POST", f"/{audience.id}/{edge}", form=self._upload(batch), safe=safe)',
        'Call("POST", f"/{audience.id}/{edge}", query=self._upload(batch), safe=safe)',
        "test_10_no_identifier_and_no_secret_is_told",
    ),
    Sabotage(
        11,
        "members who were not sent are in no count",
        "tally.py",
        "pending=found.counts.pending + sum(",
        "pending=found.counts.pending + 0 * sum(",
        "test_11_a_failure_is_told",
        "credentials",
    ),
    Sabotage(
        11,
        "rows that are no members are in no count",
        "planning.py",
        "rejected=found.counts.rejected + sum(frozen.rejects.values())",
        "rejected=found.counts.rejected",
        "test_11_every_member_is_accounted_for",
    ),
    Sabotage(
        12,
        "our mark is not recognised",
        "audiences.py",
        "return own and sync_of(audience.mark) in",
        "return False and sync_of(audience.mark) in",
        "test_12_an_audience_is_found_by_its_mark",
    ),
    Sabotage(
        12,
        "another account is as good",
        "audiences.py",
        "if known.account and known.account != account:",
        "if False:",
        "test_12_another_account_holds",
    ),
    Sabotage(
        13,
        "a refused unit is sent for a consenting member",
        "encode.py",
        "case when r{n}.value is null then {cells[unit[0]]} end",
        "{cells[unit[0]]}",
        "test_13_a_refused_identifier_is_sent_for_nobody",
    ),
    Sabotage(
        13,
        "unknown consent counts as consent",
        "freeze.py",
        "where {said} is null or {said} not in",
        "where {said} not in",
        "test_13_consent_that_is_unknown_is_no_consent",
    ),
    Sabotage(
        13,
        "refusals count as losses",
        "tally.py",
        'effects.get("remove", 0) - refused_losing + unusable_losing',
        'effects.get("remove", 0) + unusable_losing',
        "test_13_refusals_do_not_count_as_losses",
    ),
    Sabotage(
        1,
        "who changes is removed and not sent again",
        "order.py",
        "where c.wanted and d.usable and c.key not in (select key from deferred)",
        "where c.wanted and d.usable and c.old_status is null",
        "test_1_converges",
    ),
    Sabotage(
        3,
        "additions cross a removal that still runs",
        "state/pending.py",
        'return " union all ".join(parts) if parts else None',
        "return None",
        "test_3_a_removal_that_still_runs_is_not_crossed_by_an_addition",
    ),
    Sabotage(
        3,
        "who shares an identifier with a running removal is added",
        "order.py",
        "where c.wanted and d.usable and c.key not in (select key from deferred)",
        "where c.wanted and d.usable",
        "test_3_a_running_job_is_not_crossed_by_who_shares_an_identifier",
        "addition",
    ),
    Sabotage(
        3,
        "who shares an identifier with a running addition is removed",
        "order.py",
        "from going where phase = 'remove' and key not in (select key from deferred)",
        "from going where phase = 'remove'",
        "test_3_a_running_job_is_not_crossed_by_who_shares_an_identifier",
        "removal",
    ),
    Sabotage(
        5,
        "a leaver's units are not read",
        "diff.py",
        'join {seen} s on s.key = u.key",',
        'join {seen} s on s.key = u.key and s.round > 0",',
        "test_5_a_leaver_is_removed_under_what_was_sent",
        "changed",
    ),
    Sabotage(
        5,
        "an identifier that is no longer sent is not removed",
        "encode.py",
        "return replace(self, former=tuple(sorted(on_record - set(self.identifiers))))",
        "return self",
        "test_5_an_identifier_that_is_no_longer_sent_is_removed",
    ),
    Sabotage(
        6,
        "everybody is replaced",
        "coding.py",
        'return (self.mode == "replace" and not self.sweeps) or operations.get(Op.ADD) is not Support.FULL',
        "return True",
        "test_6_members_of_others_are_left_alone",
    ),
    Sabotage(
        7,
        "rows that differ are all members",
        "freeze.py",
        "group by key having count(*) = 1)",
        "group by key)",
        "test_7_rows_that_are_no_members_cost_themselves_only",
    ),
    Sabotage(
        8,
        "nobody waits for a lock",
        "state/locks.py",
        "lock.acquire(timeout=0)\n    except",
        "pass\n    except",
        "test_8_a_second_run_stops_while_the_first_one_sends",
    ),
    Sabotage(
        8,
        "a lock that is not had is no reason to stop",
        "state/locks.py",
        "lock.acquire(timeout=timeout_s)",
        "pass",
        "test_8_a_second_run_stops_while_the_first_one_sends",
    ),
    Sabotage(
        8,
        "a lease is taken that has not ended",
        "state/locks.py",
        'free = event in ("", "released") or left_s + MARGIN_S <= 0',
        "free = True",
        "test_8_a_lease_has_one_owner",
        warehouse="postgres",
    ),
    Sabotage(
        8,
        "who was overtaken may write",
        "state/locks.py",
        "if newest is not None and int(newest) > self.token:",
        "if False:",
        "test_8_a_lease_has_one_owner",
        warehouse="postgres",
    ),
    Sabotage(
        8,
        "who was overtaken may send",
        "state/locks.py",
        "return self._left() >= timeout_s + MARGIN_S",
        "return True",
        "test_8_a_lease_has_one_owner",
        warehouse="postgres",
    ),
    Sabotage(
        8,
        "a takeover does not close what the other run may still write",
        "recovery.py",
        "folds.seal(session, self._store, self._sync.id, self._lock)",
        "pass",
        "test_8_what_an_overtaken_run_commits_late_does_not_count",
        warehouse="postgres",
    ),
    Sabotage(
        10,
        "an error of the warehouse is quoted whole",
        "warehouse.py",
        "if kinds.intersection(_SPEAKS_OF_NAMES) or by_state:",
        "if True:",
        "test_10_an_error_of_the_warehouse_quotes_no_value",
    ),
    Sabotage(
        11,
        "every run ends well",
        "report.py",
        "return next((code for code in (2, 1, 3) if code in codes), 0)",
        "return 0",
        "test_11_one_failing_sync_hides_no_other",
    ),
    Sabotage(
        12,
        "another state's mark is ours",
        "audiences.py",
        'own = audience.mark.startswith(f"{PREFIX}{self._store.state_id}:")',
        "own = audience.mark.startswith(PREFIX)",
        "test_12_a_lost_state_takes_no_audience_over",
    ),
    Sabotage(
        13,
        "what was sent for a refused member is forgotten",
        "deliver.py",
        "        memory.remember(session, store, bench, owner, lock.token)\n",
        "",
        "test_13_a_refusal_takes_out_every_identifier_ever_sent",
    ),
)
