"""Country words to ISO 3166-1 alpha-2 codes, with pycountry's tables and the everyday names that ISO lacks."""

from __future__ import annotations

import functools
import importlib.metadata
import unicodedata

# Names in common use that are neither ISO's short, common nor official name. The UK's four countries have no code of
# their own; "Congo" alone is ISO's name of CG; "Korea" alone and Kosovo (no ISO code) are left out on purpose.
_EVERYDAY = {
    "GB": "UK, Great Britain, Britain, England, Scotland, Wales, Northern Ireland",
    "AE": "UAE",
    "BN": "Brunei",
    "BO": "Bolivia",
    "CD": "Democratic Republic of the Congo, DR Congo, DRC, Congo Kinshasa",
    "CG": "Republic of the Congo, Congo Brazzaville",
    "CI": "Ivory Coast",
    "CV": "Cape Verde",
    "CZ": "Czech Republic",
    "FM": "Micronesia",
    "GM": "The Gambia",
    "BS": "The Bahamas",
    "HK": "Hong Kong SAR",
    "IR": "Iran",
    "KP": "North Korea, Democratic People's Republic of Korea",
    "KR": "South Korea, Republic of Korea",
    "LA": "Laos",
    "MD": "Moldova",
    "MK": "Macedonia",
    "MM": "Burma",
    "MO": "Macau",
    "NL": "Holland, The Netherlands",
    "PH": "The Philippines",
    "PS": "Palestine",
    "RU": "Russia",
    "SY": "Syria",
    "SZ": "Swaziland",
    "TL": "East Timor",
    "TR": "Turkey, Turkiye",
    "TW": "Taiwan",
    "TZ": "Tanzania",
    "VA": "Vatican, Vatican City",
    "VE": "Venezuela",
    "VN": "Vietnam",
}


def version() -> str:
    """The release of the country tables; part of the sync's fingerprint."""
    return "pycountry " + importlib.metadata.version("pycountry")


def alpha2(text: str) -> str | None:
    """The upper-case alpha-2 code that a text names: a code, or an English name; None when it names no country.

    Only letters count, in any case, with or without accents: `u.s.a.`, `Côte d'Ivoire`, `gb `.
    """
    return _codes().get(_key(text))


def _key(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text) if letter.isalpha()).casefold()


@functools.cache
def _codes() -> dict[str, str]:
    import pycountry  # its tables take a while to read; most commands never need them

    codes: dict[str, str] = {}
    for country in pycountry.countries:
        names = [country.alpha_2, country.alpha_3, country.name]
        names += [getattr(country, kind) for kind in ("common_name", "official_name") if hasattr(country, kind)]
        # "Korea, Republic of" is spoken "Republic of Korea"; "and" is often "&", and "Saint" "St.".
        names += [" ".join(reversed(name.split(", "))) for name in names]
        names += [name.replace(" and ", " & ").replace("Saint ", "St ") for name in names]
        names += [name.replace("Saint ", "St ") for name in names]
        codes.update((_key(name), country.alpha_2) for name in names)
    for code, words in _EVERYDAY.items():
        codes.update((_key(word), code) for word in words.split(", "))
    return codes
