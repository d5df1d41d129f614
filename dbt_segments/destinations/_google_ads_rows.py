"""SQL that writes one AudienceMember of the Data Manager API.

Source: Google, Data Manager API v1, REST reference of `audienceMembers.ingest` and `.remove`, read 2026-11.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping

from dbt_segments.destinations._google_ads_settings import CONSENT, ConsentSettings
from dbt_segments.destinations.base import Op

ADDRESS = {
    "first_name": "givenName",
    "last_name": "familyName",
    "country": "regionCode",
    "postal_code": "postalCode",
}
# Of a list for one system; `maid` is an id whose system is not known.
MOBILE = {"ios": ("maid", "idfa"), "android": ("maid", "aaid")}
CONTACTS = {"email": "emailAddress", "phone": "phoneNumber"}


def member(op: Op, cells: Mapping[str, str], kind: str, consent: ConsentSettings) -> str:
    """One member as JSON text.

    cells  identifier -> SQL of its value as JSON text, null where the member lacks it
    kind   what the list holds: contact_id, mobile_id or user_id

    A removal says nothing of consent: its request knows none.
    """
    own = "''" if op is Op.REMOVE else _consent(cells, consent)
    return f"concat('{{', {_data(cells, kind)}, {own}, '}}')"


def _data(cells: Mapping[str, str], kind: str) -> str:
    if kind == "mobile_id":
        return f"""'"mobileData":{{"mobileIds":[' || concat_ws(',', {", ".join(_ids(cells))}) || ']}}'"""
    if kind == "user_id":
        return f"""'"userIdData":{{"userId":' || {cells.get("external_id", "null")} || '}}'"""
    alone = (f"""'{{"{field}":' || {cells[name]} || '}}'""" for name, field in CONTACTS.items() if name in cells)
    found = ", ".join((*alone, *_address(cells)))
    return f"""'"compositeData":{{"userData":{{"userIdentifiers":[' || concat_ws(',', {found}) || ']}}}}'"""


def _ids(cells: Mapping[str, str]) -> Iterator[str]:
    """The mobile ids, null for one that is there already: a member may have one id in two columns."""
    before: list[str] = []
    for cell in (cell for name, cell in cells.items() if name not in CONSENT):
        yield functools.reduce(lambda sql, other: f"nullif({sql}, {other})", before, cell)
        before.append(cell)


def _address(cells: Mapping[str, str]) -> Iterator[str]:
    """The address, which is null as soon as one of its four parts is: Google matches it only whole."""
    if all(name in cells for name in ADDRESS):
        parts = " || ',' || ".join(f"""'"{field}":' || {cells[name]}""" for name, field in ADDRESS.items())
        yield f"""'{{"address":{{' || {parts} || '}}}}'"""


def _consent(cells: Mapping[str, str], consent: ConsentSettings) -> str:
    """The member's own consent, where a column decides at least one of the two.

    A constant goes with it then, since a member's consent stands in place of the request's.
    """
    if not consent.columns:
        return "''"
    words = {name: f"'\"{word}\"'" for name, word in consent.constants.items()}
    words |= {name: cells[name] for name in CONSENT if name in cells}
    pairs = ", ".join(f"""'"{CONSENT[name]}":' || {word}""" for name, word in words.items())
    return f"""coalesce(',"consent":{{' || nullif(concat_ws(',', {pairs}), '') || '}}', '')"""
