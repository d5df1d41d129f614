"""Who may read the state: `grants: {select: [...]}` of the project's settings.

Granted are the logs and the views. Immutable tables are not: frozen sets hold raw identifiers in clear.
"""

from __future__ import annotations

from collections.abc import Sequence

from dbt_segments.errors import SettingsError, WarehouseError
from dbt_segments.state import schema as schemas
from dbt_segments.state.store import Store
from dbt_segments.warehouse import Session


def readable(views: Sequence[str]) -> tuple[str, ...]:
    """Names of what is granted: every documented table, what dbt's hook writes, and the views."""
    return (*schemas.TABLES, "model_builds", *views)


def grant(session: Session, store: Store, roles: Sequence[str], views: Sequence[str]) -> int:
    """Give each role what it lacks; how many grants that were. A warehouse without roles needs none.

    Raises SettingsError where a role does not exist, or may not be given this.
    """
    given = 0
    for role in roles:
        try:
            given += session.grant_select(store.schema, readable(views), role)
        except WarehouseError as error:
            raise SettingsError(
                f"vars.dbt_segments.grants.select: {role}: {error.message}",
                hint="create the role, or let the owner of the schema grant it; nothing was sent",
            ) from None
    return given
