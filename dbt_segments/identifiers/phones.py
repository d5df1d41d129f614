"""Phone numbers to E.164 digits, with the Python port of libphonenumber."""

from __future__ import annotations

import functools
import re
import unicodedata

import phonenumbers
from phonenumbers import PhoneNumber, ValidationResult

_START = re.compile(r"[+0-9]")
# What may stand between a leading + or 00 and the country code, zeros included.
_PREFIX = re.compile(r"[+0\s().\-/]+")
_LETTER = re.compile("[A-Za-z]")
# What libphonenumber leaves off: a second number's extension, and whatever is no letter and no digit at the end.
_LEFT_OFF = re.compile(r"[\\/] *x.*|[^0-9A-Za-z#]+$", re.DOTALL)
# One segment to nine platforms meets each number nine times; so many are kept, in at most 50 MB.
_KEPT = 1 << 17
_REASONS = {
    ValidationResult.INVALID_COUNTRY_CODE: "phone_country_code",
    ValidationResult.TOO_SHORT: "phone_too_short",
    ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "phone_too_short",
    ValidationResult.TOO_LONG: "phone_too_long",
}


def version() -> str:
    """The release of the numbering plans; part of the sync's fingerprint."""
    return f"phonenumbers {phonenumbers.__version__}, reading 3"


@functools.lru_cache(maxsize=_KEPT)
def e164_digits(text: str, country: str | None) -> tuple[str | None, str | None]:
    """The number with its country code, digits only, or None and the reason why there is none.

    text     as the column has it; Unicode digits and a full-width plus count, an extension is dropped. Words behind the
             number are refused: libphonenumber reads letters as the digits of their keys, `home` as 4663
    country  alpha-2; makes a number without `+` or `00` a national one. Without it such a number is read as country
             code first, and must then be a valid number, not merely one of possible length.
    """
    plain = _ascii_digits(text)
    start = _START.search(plain)
    if start is None or not any(character.isdigit() for character in plain):
        return None, "phone_no_digits"
    number = plain[start.start() :]
    if _LETTER.search(number) and phonenumbers.is_alpha_number(_LEFT_OFF.sub("", number)):
        return None, "phone_invalid"
    region = country if country in phonenumbers.SUPPORTED_REGIONS else None
    if number.startswith(("+", "00")):
        return _read("+" + _PREFIX.sub("", number, count=1), None)
    if region is not None:
        return _national(number, region)
    if number.startswith("0"):
        return None, "phone_no_country"
    return _read("+" + number, None, valid=True)


def _national(number: str, region: str) -> tuple[str | None, str | None]:
    """A national number; where only the country's own code in front makes sense of its digits, that."""
    found, reason = _read(number, region)
    code = str(phonenumbers.country_code_for_region(region))
    is_valid = found is not None and phonenumbers.is_valid_number(phonenumbers.parse("+" + found))
    if is_valid or not re.sub(r"\D", "", number).startswith(code):
        return found, reason
    coded, _ = _read("+" + number, None, valid=True)
    return (coded, None) if coded else (found, reason)


def _ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    folded = (str(unicodedata.decimal(character, character)) for character in text)
    return "".join(folded).replace("\uff0b", "+")  # full-width plus


def _read(text: str, region: str | None, valid: bool = False) -> tuple[str | None, str | None]:
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException as error:
        return None, _parse_reason(error.error_type)
    if number.italian_leading_zero:
        number = _without_trunk_zero(number)
    possible = phonenumbers.is_possible_number_with_reason(number)
    if possible != ValidationResult.IS_POSSIBLE:
        return None, _REASONS.get(possible, "phone_invalid")
    if valid and not phonenumbers.is_valid_number(number):
        return None, "phone_no_country"
    return f"{number.country_code}{phonenumbers.national_significant_number(number)}", None


def _parse_reason(error_type: int) -> str:
    return {
        phonenumbers.NumberParseException.INVALID_COUNTRY_CODE: "phone_country_code",
        phonenumbers.NumberParseException.TOO_SHORT_AFTER_IDD: "phone_too_short",
        phonenumbers.NumberParseException.TOO_SHORT_NSN: "phone_too_short",
        phonenumbers.NumberParseException.TOO_LONG: "phone_too_long",
    }.get(error_type, "phone_invalid")


def _without_trunk_zero(number: PhoneNumber) -> PhoneNumber:
    """The number less a leading zero that is no part of it.

    libphonenumber keeps every zero that it cannot place. In Italy it belongs to the number; elsewhere it is the trunk
    prefix that somebody left, as in `+352 (0)26..`.
    """
    if phonenumbers.is_valid_number(number):
        return number
    code = number.country_code or 0
    bare = PhoneNumber(country_code=code, national_number=number.national_number)
    return number if _begin_with_zero(code) and not phonenumbers.is_valid_number(bare) else bare


@functools.cache
def _begin_with_zero(country_code: int) -> bool:
    """Whether some numbers of a plan begin with a zero of their own, as Italy's do."""
    regions = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(country_code, ())
    kinds = phonenumbers.PhoneNumberType.values()
    examples = (phonenumbers.example_number_for_type(region, kind) for region in regions for kind in kinds)
    return any(example is not None and example.italian_leading_zero for example in examples)
