"""Country words to alpha-2 codes."""

from __future__ import annotations

import pytest

from dbt_segments.identifiers.countries import alpha2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("de", "DE"), (" gb ", "GB"), ("FRA", "FR"), ("U.S.A.", "US"), ("UK", "GB"), ("United Kingdom", "GB"),
        ("Czech Republic", "CZ"), ("Czechia", "CZ"), ("USA", "US"), ("United States", "US"), ("Chile", "CL"),
        ("United States of America", "US"), ("Russia", "RU"), ("South Korea", "KR"), ("Korea, Republic of", "KR"),
        ("Republic of Korea", "KR"), ("north korea", "KP"), ("Côte d'Ivoire", "CI"), ("Cote d’Ivoire", "CI"),
        ("Ivory Coast", "CI"), ("Türkiye", "TR"), ("Turkey", "TR"), ("VIETNAM", "VN"), ("Viet Nam", "VN"),
        ("The Netherlands", "NL"), ("Holland", "NL"), ("Bolivia", "BO"), ("Trinidad & Tobago", "TT"),
        ("St. Lucia", "LC"), ("Hong Kong", "HK"), ("Taiwan", "TW"), ("Democratic Republic of the Congo", "CD"),
    ],
)  # fmt: skip
def test_country_words(text: str, code: str) -> None:
    """Codes and English names, however they are written, become the ISO code."""
    assert alpha2(text) == code


@pytest.mark.parametrize("text", ["", "--", "XX", "Atlantis", "Deutschlandd", "840", "Korea", "EU", "Kosovo"])
def test_no_country(text: str) -> None:
    """What names no ISO country is refused and never cut to two letters."""
    assert alpha2(text) is None
