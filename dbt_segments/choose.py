"""Which of an entity's identifiers a destination takes, and under which names users may call them.

Source of the names: the identifier table of docs/reference; a platform's own field name in lower case is a synonym.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from dbt_segments.destinations.base import Destination
from dbt_segments.spelling import nearest
from dbt_segments.values import Identifier

NAMES = (
    "email",
    "phone",
    "first_name",
    "last_name",
    "country",
    "postal_code",
    "city",
    "region",
    "gender",
    "fi",
    "doby",
    "dobm",
    "dobd",
    "birth_date",
    "maid",
    "idfa",
    "aaid",
    "android_id",
    "device_id",
    "external_id",
    "handle",
    "twitter_id",
    "partner_user_id",
    "crm_id",
)
_SYNONYMS = {"mobile_id": "maid", "user_id": "external_id", "state": "region"}
_BIRTH_DATE = ("doby", "dobm", "dobd")

# What may stand in for an identifier that the entity does not have under that very name: (name, required os).
_STAND_INS: dict[str, tuple[tuple[str, str | None], ...]] = {
    "maid": (("idfa", None), ("aaid", None)),
    "idfa": (("maid", "ios"),),
    "aaid": (("maid", "android"),),
    "fi": (("first_name", None),),
}
_SYSTEMS = {"idfa": "ios", "aaid": "android"}
_OF_SYSTEM = {system: name for name, system in _SYSTEMS.items()}


def canonical(name: str, platforms: Iterable[type[Destination]]) -> str | None:
    """The name of the table for a name or synonym; None for an unknown one.

    A field name that means different things on different platforms is no synonym.
    """
    platforms = tuple(platforms)
    lower = name.lower()
    if lower in NAMES or any(lower in taken(platform) for platform in platforms):
        return lower
    if lower in _SYNONYMS:
        return _SYNONYMS[lower]
    meanings = {
        known
        for platform in platforms
        for known, accepts in platform.identifiers.items()
        if accepts.field.lower() == lower and not accepts.trait
    }
    return meanings.pop() if len(meanings) == 1 else None


def expand(name: str) -> tuple[str, ...]:
    """A date of birth feeds year, month and day; everything else is itself."""
    return _BIRTH_DATE if name == "birth_date" else (name,)


def taken(platform: type[Destination]) -> list[str]:
    """Everything by which a platform can be told of people, in its order."""
    return [name for name, accepts in platform.identifiers.items() if not accepts.trait]


def choose(
    identifiers: Sequence[Identifier],
    platform: type[Destination],
    only: Sequence[str] | None = None,
    offered: Collection[str] | None = None,
) -> tuple[tuple[Identifier, ...], list[str]]:
    """The identifiers that a sync sends, named and ordered as in `platform.identifiers`, and what is wrong.

    identifiers  the entity's, under the names of the table
    only         names the user asked for; None: all that both sides know, but for `platform.on_request`
    offered      those that this connection takes; None: all of the platform's
    """
    offered = taken(platform) if offered is None else offered
    wanted = None if only is None else _wanted(only, platform)
    chosen: list[Identifier] = []
    wrong: list[str] = []
    for name in (name for name in platform.identifiers if name in offered):
        if wanted is None and name in platform.on_request:
            continue
        sources = [
            source
            for source in _sources(name, identifiers)
            if _is_asked(name, source, wanted) and _home(source, platform) in (None, name)
        ]
        if len(sources) > 1:
            columns = " and ".join(f"`{source.name}`" for source in sources)
            wrong.append(
                f"{platform.type} takes one `{name}` a member and the entity has {columns}: "
                "choose one under `identifiers`, or coalesce them into one column"
            )
        chosen += [_renamed(source, name) for source in sources[:1]]
    if any(item.name == "first_name" for item in chosen) and (wanted is None or "fi" not in wanted):
        chosen = [item for item in chosen if item.name != "fi"]
    return tuple(chosen), wrong + list(_refused(wanted, chosen, identifiers, platform, offered))


def matches_alone(chosen: Sequence[Identifier], platform: type[Destination]) -> bool:
    """True where at least one lasting match unit of the platform is complete among the chosen."""
    names = {identifier.name for identifier in chosen}
    return any(names.issuperset(unit) for unit in lasting_units(platform))


def lasting_units(platform: type[Destination], offered: Collection[str] | None = None) -> list[tuple[str, ...]]:
    """Match units that the platform does not forget by itself: who has no other could not be taken out any more."""
    names = set(taken(platform) if offered is None else offered)
    units = (unit for unit in platform.units if names.issuperset(unit))
    return [unit for unit in units if "+".join(unit) not in platform.forgets_after_days]


def _wanted(only: Sequence[str], platform: type[Destination]) -> dict[str, str]:
    """Canonical name -> the name that the user wrote."""
    return {name: written for written in only for name in expand(canonical(written, (platform,)) or written)}


def _sources(name: str, identifiers: Sequence[Identifier]) -> list[Identifier]:
    """What feeds `name`: the identifier of that name, else everything that may stand in for it."""
    exact = [identifier for identifier in identifiers if identifier.name == name]
    return exact or [
        identifier
        for other, system in _STAND_INS.get(name, ())
        for identifier in identifiers
        if identifier.name == other and system in (None, identifier.os)
    ]


def _home(source: Identifier, platform: type[Destination]) -> str | None:
    """Where a mobile id belongs on a platform that tells the systems apart; None: wherever it is taken."""
    if source.name not in ("maid", *_SYSTEMS):
        return None
    own = _OF_SYSTEM.get(source.os or _SYSTEMS.get(source.name, ""))
    return own if own in platform.identifiers else None


def _is_asked(name: str, source: Identifier, wanted: dict[str, str] | None) -> bool:
    if wanted is None:
        return True
    # asking for first_name does not ask for its initial as well
    return name in wanted or (source.name in wanted and name != "fi")


def _renamed(source: Identifier, name: str) -> Identifier:
    system = source.os or _SYSTEMS.get(source.name)
    return Identifier(name, source.column, country=source.country, os=system, form=source.form)


def _refused(
    wanted: dict[str, str] | None,
    chosen: Sequence[Identifier],
    identifiers: Sequence[Identifier],
    platform: type[Destination],
    offered: Collection[str],
) -> Iterator[str]:
    """One text for each name that the user asked for and that will not be sent."""
    had = [identifier.name for identifier in identifiers]
    stood_in = {(other, item.column) for item in chosen for other, _ in _STAND_INS.get(item.name, ())}
    for name, written in (wanted or {}).items():
        if any(name == item.name for item in chosen):
            continue
        if any(item.name == name and (name, item.column) in stood_in for item in identifiers):
            continue  # sent under the platform's name for it, as an idfa is where only maid is taken
        hint = nearest(name, sorted(offered)) or f"it takes {', '.join(offered)}"
        if name in taken(platform) and name not in offered:
            yield f"{platform.type} does not take `{written}` with the settings of this connection"
        elif name in offered:
            yield f"the entity has no `{written}`; it has {', '.join(had)}"
        else:
            yield f"{platform.type} does not take `{written}` ({hint})"
