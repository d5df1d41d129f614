"""What the rules of dbt_segments/identifiers mean, one value at a time in plain Python.

The reference for the SQL: written from the contract, not from the SQL. Phones and countries have no twin, since
Python itself parses them.
"""

from __future__ import annotations

import datetime
import re
import unicodedata

# Unicode's White_Space property. `str.strip()` also strips U+001C to U+001F, which are none.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"

_BASES = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ĳ": "ij", "þ": "th", "ð": "d", "đ": "d", "ø": "o", "ł": "l",
    "ħ": "h", "ŧ": "t", "ŋ": "n", "ı": "i", "ſ": "s", "ĸ": "k",
}  # fmt: skip

_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


def text(raw: str | None) -> str | None:
    """The raw value without the white space around it; None when it is absent."""
    trimmed = (raw or "").strip(WHITE_SPACE)
    return None if trimmed.lower() in ("", "none", "null", "nan") else trimmed


def is_digest(value: str) -> bool:
    return re.fullmatch("[0-9a-fA-F]{64}", value) is not None


def is_number_text(value: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+(\.0+|(\.[0-9]*)?[eE][+-]?[0-9]+)", value) is not None


def email(value: str, country: str | None = None) -> str | None:
    address = value.lower()
    local, at, domain = address.partition("@")
    labels = domain.split(".")
    fine = (
        at
        and local
        and not any(character in WHITE_SPACE + ',;:<>()[]"\\' for character in local)
        and len(labels) >= 2
        and all(label and all(_in_label(character) for character in label) for label in labels)
    )
    return address if fine else None


def email_unspaced(value: str, country: str | None = None) -> str | None:
    return email(_kept(value, ("no category",)))


def email_of_gmail(value: str, country: str | None = None) -> str | None:
    address = email_unspaced(value)
    local, _, domain = (address or "").partition("@")
    if domain not in ("gmail.com", "googlemail.com"):
        return address
    bare = local.partition("+")[0].replace(".", "")
    return f"{bare}@{domain}" if bare else None


def bare_email(value: str, country: str | None = None) -> str | None:
    local, _, domain = (email(value) or "").partition("@")
    bare = re.sub("[^a-z0-9]", "", local.partition("+")[0])
    return f"{bare}@{domain}" if bare else None


def _in_label(character: str) -> bool:
    category = unicodedata.category(character)
    return character == "-" or category[0] in "LM" or category == "Nd"


def _kept(value: str, dropped: tuple[str, ...]) -> str:
    """Lower case, less white space and the categories that start so; NFC."""
    letters = (
        character
        for character in value.lower()
        if character not in WHITE_SPACE and not unicodedata.category(character).startswith(dropped)
    )
    return unicodedata.normalize("NFC", "".join(letters))


def _spoken(value: str) -> str | None:
    return text(value) and value


def _folded(value: str) -> str:
    """Marks go with the Latin letter that they stand on; on other letters they stay."""
    folded = []
    on_latin = False
    for character in value:
        is_mark = unicodedata.category(character)[0] == "M"
        on_latin = on_latin if is_mark else "LATIN" in unicodedata.name(character, "")
        if not on_latin:
            folded.append(character)
        elif not is_mark:
            base = "".join(c for c in unicodedata.normalize("NFD", character) if unicodedata.category(c)[0] != "M")
            folded.append("".join(_BASES.get(c, c) for c in base))
    return "".join(folded)


def name(value: str, country: str | None = None) -> str | None:
    return _spoken(_kept(value, ("P",)))


def _spaced(value: str) -> list[str]:
    """The words of the value in lower case; NFC. White space around it is gone already."""
    return unicodedata.normalize("NFC", re.sub(f"[{WHITE_SPACE}]+", " ", value.lower())).split(" ")


def first_name_spaced(value: str, country: str | None = None) -> str | None:
    words = _spaced(value)
    has_title = len(words) > 1 and words[0].removesuffix(".") in ["mr", "mrs", "ms", "miss", "mx", "dr", "prof"]
    return _spoken(" ".join(words[1:] if has_title else words))


def last_name_spaced(value: str, country: str | None = None) -> str | None:
    words = _spaced(value)
    whole, last = " ".join(words), words[-1].removesuffix(".")
    rest = " ".join(words[:-1])
    rest = rest.removesuffix(",").removesuffix(" ") if rest.endswith(",") else rest
    has_suffix = last in ["jr", "sr", "ii", "iii", "iv", "phd", "md"] and rest and rest[-1] not in " ,"
    return _spoken(rest if has_suffix else whole)


def name_as_written(value: str, country: str | None = None) -> str | None:
    composed = unicodedata.normalize("NFC", value)
    return composed if len(composed) <= 35 and not _holds_email(composed) else None


def initial(value: str, country: str | None = None) -> str | None:
    letters = [character for character in name(value) or "" if unicodedata.category(character)[0] == "L"]
    return letters[0] if letters else None


def city(value: str, country: str | None = None) -> str | None:
    return _spoken(_folded(_kept(value, ("P", "S", "N"))))


def city_with_accents(value: str, country: str | None = None) -> str | None:
    return _spoken(_kept(value, ("P", "S", "N")))


def region(value: str, country: str | None = None) -> str | None:
    kept = _spoken(_folded(_kept(value, ("P", "S"))))
    states = {"california": "ca", "newyork": "ny", "districtofcolumbia": "dc", "georgia": "ga"}
    return states.get(kept or "", kept) if country in (None, "US") else kept


def postal_code(value: str, country: str | None = None) -> str | None:
    kept = _kept(value, ("Pd",))
    shape = re.fullmatch("[0-9]{5}|[0-9]{9}", kept) and re.match("[0-9]{5}", value)
    if country == "US" or (country is None and shape):
        return kept[:5] if re.match("[0-9]{5}", kept) else None
    return kept if len(kept) >= 2 else None


def postal_code_as_written(value: str, country: str | None = None) -> str | None:
    says_something = any(unicodedata.category(character)[0] in "LN" for character in value)
    return unicodedata.normalize("NFC", value) if says_something and not _holds_email(value) else None


def gender(value: str, country: str | None = None) -> str | None:
    words = {"m": "m", "male": "m", "man": "m", "boy": "m", "f": "f", "female": "f", "woman": "f", "girl": "f"}
    return words.get(value.lower())


def _iso_date(value: str) -> datetime.date | None:
    match = re.fullmatch(
        r"([0-9]{4}-[0-9]{2}-[0-9]{2})([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?",
        value,
    )
    try:
        return datetime.date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def birth_year(value: str, country: str | None = None) -> str | None:
    date = _iso_date(value)
    year = f"{date.year:04}" if date else value
    fine = re.fullmatch("[0-9]{4}", year) and 1900 <= int(year) <= datetime.date.today().year
    return year if fine else None


def birth_month(value: str, country: str | None = None) -> str | None:
    date = _iso_date(value)
    if value.lower() in _MONTHS:
        return f"{_MONTHS.index(value.lower()) + 1:02}"
    return f"{date.month:02}" if date else _two_digits(value, 12)


def birth_day(value: str, country: str | None = None) -> str | None:
    date = _iso_date(value)
    return f"{date.day:02}" if date else _two_digits(value, 31)


def _two_digits(value: str, most: int) -> str | None:
    fine = re.fullmatch("[0-9]{1,2}", value) and 1 <= int(value) <= most
    return f"{int(value):02}" if fine else None


def maid(value: str, country: str | None = None) -> str | None:
    return _maid(value, "[0-9a-fA-F]")


def maid_any_letters(value: str, country: str | None = None) -> str | None:
    return _maid(value, "[0-9a-zA-Z]")


def _maid(value: str, digit: str) -> str | None:
    fine = re.fullmatch("-".join(f"{digit}{{{n}}}" for n in (8, 4, 4, 4, 12)), value) and set(value) != {"0", "-"}
    return value.lower() if fine else None


def opaque_id(value: str, country: str | None = None) -> str | None:
    return None if _holds_email(value) else value


def _holds_email(value: str) -> bool:
    word = f"[^{WHITE_SPACE}@]"
    return re.search(rf"{word}@{word}+\.[^{WHITE_SPACE}@.]", value) is not None


def android_id(value: str, country: str | None = None) -> str | None:
    return value.lower() if re.fullmatch("[0-9a-fA-F]{16}", value) and set(value) != {"0"} else None


def device_id(value: str, country: str | None = None) -> str | None:
    return android_id(value) or maid(value)


def handle(value: str, country: str | None = None) -> str | None:
    bare = value.lower().removeprefix("@")
    return _spoken(bare) if re.fullmatch("[a-z0-9_]+", bare) else None


def numeric_id(value: str, country: str | None = None) -> str | None:
    return value if re.fullmatch("[0-9]+", value) else None
