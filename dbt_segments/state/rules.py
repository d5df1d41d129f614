"""Under which rules of refusal a sync last sent: consent columns and suppression models, by name.

Who is refused today says nothing of a rule that was taken away; so the rules themselves are on record, in the detail of
a pointer without tables. They are written by the run that sends under them, or that has nothing to send.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from dbt_segments.state.locks import Lock
from dbt_segments.state.store import Store, in_list
from dbt_segments.values import Sync
from dbt_segments.warehouse import Session

KIND = "rules"


def rules_of(sync: Sync) -> frozenset[str]:
    """The rules that apply to a sync now: `consent column <name>` and `suppression model <name>`."""
    consent = sync.entity.consent.get(sync.channel) if sync.channel else None
    models = (*sync.entity.suppress, *sync.segment.suppress, *sync.suppress)
    named = {f"suppression model {model.unique_id.split('.', 1)[-1]}" for model in models}
    return frozenset(named | ({f"consent column {consent}"} if consent else set()))


def recorded_rules(session: Session, store: Store, ids: Sequence[str]) -> frozenset[str] | None:
    """The newest rules on record under any of a sync's ids; None where there are none."""
    rows = session.rows(
        f"select detail from {store.table('pointers')} where kind = ? and owner in {in_list(ids)} "
        f"order by committed_at desc, token desc, seq desc limit 1",
        [KIND],
    )
    return frozenset(json.loads(rows[0][0])["rules"]) if rows else None


def record_rules(session: Session, store: Store, owner: str, lock: Lock, rules: Iterable[str]) -> None:
    """Put these rules on record, under the audience's lock."""
    last = store.newest(session, owner, KIND)
    seq = last.seq + 1 if last and last.token == lock.token else 1
    with session.transaction():
        lock.fence(session)
        store.point(session, owner, KIND, lock.token, seq, {"rules": sorted(rules)})
