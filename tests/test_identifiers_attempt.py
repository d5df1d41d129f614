"""The core of `destinations try`."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from dbt_segments.errors import SettingsError
from dbt_segments.identifiers import rules
from dbt_segments.identifiers.attempt import attempt

ACCEPTS = {
    "email": rules.email(),
    "phone": rules.phone(),
    "maid": rules.maid(hexadecimal=False),
    "external_id": rules.opaque_id(),
    "region": rules.region(),
}
MAID = "38400000-8cf0-11bd-b23e-10b96e40000d"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("row", "sent", "hashed", "reason"),
    [
        ({"identifier": "email", "value": "A@example.com"}, sha256("a@example.com"), True, None),
        ({"identifier": "EMAIL", "value": "A@example.com"}, sha256("a@example.com"), True, None),
        ({"identifier": "email", "value": "nobody"}, None, False, "email_invalid"),
        ({"identifier": "email", "value": None}, None, False, "absent"),
        ({"identifier": "email"}, None, False, "absent"),
        ({"identifier": "email", "value": 17}, None, False, "email_invalid"),
        ({"identifier": "phone", "value": 7112842222}, sha256("497112842222"), True, None),
        ({"identifier": "phone", "value": 18005550100.0}, None, False, "number_text"),
        ({"identifier": "phone", "value": "020 7946 0958", "country": "UK"}, sha256("442079460958"), True, None),
        ({"identifier": "phone", "value": "0711 2842222"}, sha256("497112842222"), True, None),
        ({"identifier": "mobile_id", "value": MAID.upper()}, MAID, False, None),
        ({"identifier": "madid", "value": MAID}, MAID, False, None),
        ({"identifier": "user_id", "value": "A-17"}, "A-17", False, None),
        ({"identifier": "state", "value": "Île-de-France", "country": "FR"}, sha256("iledefrance"), True, None),
        ({"identifier": "handle", "value": "A-17"}, None, False, "identifier_not_taken"),
        ({"value": "A-17"}, None, False, "identifier_not_taken"),
    ],
)
def test_what_would_be_sent(row: dict[str, Any], sent: str | None, hashed: bool, reason: str | None) -> None:
    """Each row is answered with exactly the text that a sync would send, or with why there is none."""
    (answer,) = attempt([row], ACCEPTS, "DE", {"madid": "maid"})
    echoed = {"identifier": row.get("identifier"), "value": row.get("value")}
    assert answer == {**echoed, "sent": sent, "hashed": hashed, "reason": reason}


def test_answers_keep_the_order() -> None:
    """Rows of mixed identifiers, over several batches, are answered in the order they came."""
    rows = [{"identifier": "external_id" if n % 3 else "email", "value": f"n{n}"} for n in range(2_500)]
    answers = list(attempt(iter(rows), ACCEPTS))
    assert [answer["value"] for answer in answers] == [row["value"] for row in rows]
    assert [answer["sent"] for answer in answers] == [f"n{n}" if n % 3 else None for n in range(2_500)]


def test_default_country_must_be_one() -> None:
    """An impossible default country is an error before anything is answered."""
    with pytest.raises(SettingsError):
        list(attempt([{"identifier": "email", "value": "a@example.com"}], ACCEPTS, "Atlantis"))
