"""Rules: what a raw identifier becomes before it is hashed or sent.

A rule is SQL over a trimmed text that is not empty. Whether the result is hashed is the platform's choice, so a
destination declares, for each identifier it takes, the rule that its API documents. The cases that no platform
documents follow one decision: leave out and report, never guess or repair.

Source of the defaults: Meta, "Customer file custom audiences", parameters and normalising rules, read 2026-11.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from dbt_segments.identifiers.sql import WHITE_SPACE, folded, literal, lowered, matches, present, without

Case = Literal["lower", "upper"]
Affix = Literal["title", "suffix"]


class Lookup(enum.Enum):
    """What a rule needs besides the text; it comes from a table of distinct values."""

    NOTHING = "nothing"
    PHONE = "the E.164 digits of the text"
    OWN_COUNTRY = "the alpha-2 code that the text names"
    ROW_COUNTRY = "the alpha-2 code of the row's country"


@dataclass(frozen=True)
class Terms:
    """SQL columns that a step may speak of: the last step's result, the trimmed text, and what was looked up."""

    value: str
    text: str
    found: str


Step = Callable[[Terms], str]


@dataclass(frozen=True)
class Rule:
    """How one identifier is normalised for a platform.

    name     of the rule, not of the identifier: first and last names share one
    version  part of the sync's fingerprint; raise it when any text comes out differently
    hashed   the platform takes SHA-256 (lower-case hex) of the normalised text; otherwise it travels in clear
    steps    SQL expressions, each over the result of the one before; null or empty in the end: nothing is sent
    reason   (SQL of the trimmed text) -> SQL of the code for a text of which nothing came; null: it counts as absent.
             A phone's reason comes from its look-up.
    options  what the factory was asked for; part of the fingerprint
    lookup   what the steps find in `Terms.found`
    shape    pattern of a text that is good although it looks like what a number column leaves behind; empty: none is
    """

    name: str
    version: int
    hashed: bool
    steps: tuple[Step, ...] = field(repr=False, compare=False)
    reason: Callable[[str], str] = field(repr=False, compare=False)
    options: tuple[str, ...] = ()
    lookup: Lookup = Lookup.NOTHING
    shape: str = field(default="", repr=False, compare=False)


def _always(code: str) -> Callable[[str], str]:
    return lambda text: literal(code)


def _nothing_left(text: str) -> str:
    return "null"


def _lower(terms: Terms) -> str:
    return lowered(terms.value)


def _without(characters: str) -> Step:
    """Drop white space and a character class; NFC comes after it, since a letter and its accent may now meet."""
    return lambda terms: f"nfc_normalize({without(terms.value, WHITE_SPACE + characters)})"


def _present(terms: Terms) -> str:
    return present(terms.value)


def _folded(terms: Terms) -> str:
    return folded(terms.value)


# -- contact data ---------------------------------------------------------------------------------------------

_LOCAL_PART = rf'[^{WHITE_SPACE},;:<>()\[\]"\\@]+'
_LABEL = r"[\p{L}\p{M}\p{Nd}-]+"
_ADDRESS = rf"{_LOCAL_PART}@{_LABEL}(?:\.{_LABEL})+"


def email(unspaced: bool = False, gmail: bool = False) -> Rule:
    """Lower case, otherwise as written: dots and `+tag` stay. What is not exactly one plain address is refused.

    unspaced  white space inside is removed first
    gmail     at gmail.com and googlemail.com, dots go from the part before the @, and everything from its first `+`
    """

    def checked(terms: Terms) -> str:
        return f"case when {matches(terms.value, _ADDRESS)} then {terms.value} end"

    def told_apart(terms: Terms) -> str:
        local = f"replace(split_part(split_part({terms.value}, '@', 1), '+', 1), '.', '')"
        gmails = matches(terms.value, r".*@(?:gmail|googlemail)\.com")
        short = f"nullif({local}, '') || '@' || split_part({terms.value}, '@', 2)"
        return f"case when {gmails} then {short} else {terms.value} end"

    steps = (_lower, *((_without(""),) if unspaced else ()), checked, *((told_apart,) if gmail else ()))
    options = (*(("unspaced",) if unspaced else ()), *(("gmail",) if gmail else ()))
    return Rule("email", 1, True, steps, _always("email_invalid"), options)


def bare_email() -> Rule:
    """As `email`; then of what stands before the `@` only a to z and 0 to 9 stay, and nothing from the first `+` on.

    The address is checked first: deleting first could make another person's address of it.
    """

    def bared(terms: Terms) -> str:
        local = f"regexp_replace(regexp_replace(split_part({terms.value}, '@', 1), '[+].*', ''), '[^a-z0-9]', '', 'g')"
        return f"concat(nullif({local}, ''), '@', split_part({terms.value}, '@', 2))"

    def whole(terms: Terms) -> str:
        return f"case when not starts_with({terms.value}, '@') then {terms.value} end"

    return Rule("bare_email", 1, True, (*email().steps, bared, whole), _always("email_invalid"))


def phone(plus: bool = False) -> Rule:
    """E.164: country code first, digits only; `plus` puts the `+` in front."""

    def spelled(terms: Terms) -> str:
        return f"'+' || {terms.found}" if plus else terms.found

    return Rule("phone", 1, True, (spelled,), _always("phone_invalid"), (f"plus={plus}",), Lookup.PHONE)


# -- names and places -----------------------------------------------------------------------------------------

_NAME_DROPS = r"\p{P}"
_CITY_DROPS = r"\p{P}\p{S}\p{N}"
_REGION_DROPS = r"\p{P}\p{S}"
_POSTAL_DROPS = r"\p{Pd}"


def name() -> Rule:
    """Lower case without punctuation and spaces; accents and digits stay."""
    return Rule("name", 1, True, (_lower, _without(_NAME_DROPS), _present), _nothing_left)


_TITLES = "mr|mrs|ms|miss|mx|dr|prof"
_SUFFIXES = "jr|sr|ii|iii|iv|phd|md"


def spaced_name(drops: Affix) -> Rule:
    """Lower case; accents and punctuation stay, a run of spaces is one; one title in front, or suffix behind, goes.

    drops  which of the two; only as a word of its own, with or without a dot, and only if a name remains
    """
    runs, space = literal(f"[{WHITE_SPACE}]+"), literal(" ")
    patterns = {"title": rf"^(?:{_TITLES})\.? (.+)$", "suffix": rf"^(.*[^ ,])(?: ?,)? (?:{_SUFFIXES})\.?$"}
    pattern = literal(patterns[drops])

    def spaced(terms: Terms) -> str:
        return f"nfc_normalize(regexp_replace({terms.value}, {runs}, {space}, 'g'))"

    def bare(terms: Terms) -> str:
        return f"regexp_replace({terms.value}, {pattern}, '\\1')"

    steps = (_lower, spaced, bare, _present)
    return Rule("spaced_name", 2, True, steps, _nothing_left, (f"drops={drops}",))


# People type their address into whichever field there is, and exports shift columns: in clear it must not leave.
_HOLDS_EMAIL = rf"(?s:.*[^{WHITE_SPACE}@]@[^{WHITE_SPACE}@]+\.[^{WHITE_SPACE}@.].*)"


def _or_holds_email(code: str) -> Callable[[str], str]:
    """The reason of a rule that also refuses what holds an e-mail address."""
    return lambda text: f"case when {matches(text, _HOLDS_EMAIL)} then 'holds_email' else {literal(code)} end"


def name_as_written(longest: int) -> Rule:
    """In clear, as written (NFC); a name of more characters than the platform takes is left out, never cut.

    So is one that holds an e-mail address.
    """

    def fitting(terms: Terms) -> str:
        fine = f"length({terms.value}) <= {longest} and not {matches(terms.value, _HOLDS_EMAIL)}"
        return f"case when {fine} then {terms.value} end"

    def composed(terms: Terms) -> str:
        return f"nfc_normalize({terms.value})"

    reason, options = _or_holds_email("name_too_long"), (f"longest={longest}",)
    return Rule("name_as_written", 2, False, (composed, fitting), reason, options)


def initial() -> Rule:
    """The first letter of what `name` makes of the text."""
    pattern = literal(r"\p{L}")

    def first_letter(terms: Terms) -> str:
        return f"regexp_extract({terms.value}, {pattern})"

    return Rule("initial", 1, True, (*name().steps, first_letter), _nothing_left)


def city(fold: bool = True) -> Rule:
    """Lower-case letters only; `fold` turns accented Latin letters into their base letter."""
    fold_steps = (_folded,) if fold else ()
    steps = (_lower, _without(_CITY_DROPS), *fold_steps, _present)
    return Rule("city", 1, True, steps, _nothing_left, (f"fold={fold}",))


_STATES = {
    "alabama": "al", "alaska": "ak", "arizona": "az", "arkansas": "ar", "california": "ca", "colorado": "co",
    "connecticut": "ct", "delaware": "de", "districtofcolumbia": "dc", "florida": "fl", "georgia": "ga",
    "hawaii": "hi", "idaho": "id", "illinois": "il", "indiana": "in", "iowa": "ia", "kansas": "ks", "kentucky": "ky",
    "louisiana": "la", "maine": "me", "maryland": "md", "massachusetts": "ma", "michigan": "mi", "minnesota": "mn",
    "mississippi": "ms", "missouri": "mo", "montana": "mt", "nebraska": "ne", "nevada": "nv", "newhampshire": "nh",
    "newjersey": "nj", "newmexico": "nm", "newyork": "ny", "northcarolina": "nc", "northdakota": "nd", "ohio": "oh",
    "oklahoma": "ok", "oregon": "or", "pennsylvania": "pa", "rhodeisland": "ri", "southcarolina": "sc",
    "southdakota": "sd", "tennessee": "tn", "texas": "tx", "utah": "ut", "vermont": "vt", "virginia": "va",
    "washington": "wa", "washingtondc": "dc", "westvirginia": "wv", "wisconsin": "wi", "wyoming": "wy",
}  # fmt: skip


def region() -> Rule:
    """Lower case without spaces, punctuation and symbols, accents folded; a US state's name becomes its code.

    A row without a country counts as US here, as Meta's contract says.
    """
    whens = " ".join(f"when '{state}' then '{code}'" for state, code in _STATES.items())

    def coded(terms: Terms) -> str:
        code = f"case {terms.value} {whens} else {terms.value} end"
        return f"case when coalesce({terms.found}, 'US') = 'US' then {code} else {terms.value} end"

    steps = (_lower, _without(_REGION_DROPS), _folded, _present, coded)
    return Rule("region", 1, True, steps, _nothing_left, (), Lookup.ROW_COUNTRY)


def postal_code() -> Rule:
    """Lower case without spaces and hyphens, whole; of a US code the first five digits.

    US means the row's country, or no country and the shape 5 or 5+4 digits.
    """
    us_shape = rf"\d{{5}}(?:[{_POSTAL_DROPS}{WHITE_SPACE}]*\d{{4}})?"
    first_five = literal(r"^\d{5}")

    def cut(terms: Terms) -> str:
        american = f"{terms.found} = 'US' or ({terms.found} is null and {matches(terms.text, us_shape)})"
        five = f"regexp_extract({terms.value}, {first_five})"
        return f"case when {american} then {five} when length({terms.value}) >= 2 then {terms.value} end"

    steps = (_lower, _without(_POSTAL_DROPS), cut)
    return Rule("postal_code", 1, True, steps, _always("postal_code_invalid"), (), Lookup.ROW_COUNTRY)


def postal_code_as_written() -> Rule:
    """As written, in clear; what holds no letter and no digit is refused, and so is an e-mail address."""
    shape = r"(?s:.*[\p{L}\p{N}].*)"

    def checked(terms: Terms) -> str:
        fine = f"{matches(terms.text, shape)} and not {matches(terms.text, _HOLDS_EMAIL)}"
        return f"case when {fine} then nfc_normalize({terms.text}) end"

    return Rule("postal_code_as_written", 2, False, (checked,), _or_holds_email("postal_code_invalid"))


def country(case: Case = "lower", hashed: bool = True) -> Rule:
    """ISO 3166-1 alpha-2 in the platform's case; what names no country is refused, never cut to two letters."""

    def cased(terms: Terms) -> str:
        return f"{case}({terms.found})"

    return Rule("country", 1, hashed, (cased,), _always("country_unknown"), (f"case={case}",), Lookup.OWN_COUNTRY)


# -- gender and birth -----------------------------------------------------------------------------------------


def gender() -> Rule:
    """`m` or `f`, from eight English words; any other word is refused, never cut to its first letter."""

    def letter(terms: Terms) -> str:
        return (
            f"case when {terms.value} in ('m', 'male', 'man', 'boy') then 'm'"
            f" when {terms.value} in ('f', 'female', 'woman', 'girl') then 'f' end"
        )

    return Rule("gender", 1, True, (_lower, letter), _always("gender_unknown"))


_YEAR = r"\d{4}"
_DAY_OR_MONTH = r"\d{1,2}"
_ISO_DATE = r"\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}(?::?\d{2})?)?)?"
# Not calendar.month_name, which speaks the locale's language.
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


def _iso_part(text: str, start: int, length: int) -> str:
    """A part of the text where it is an ISO date (with a time, perhaps) that the calendar knows; else null."""
    date = f"{matches(text, _ISO_DATE)} and try_cast(left({text}, 10) as date) is not null"
    return f"case when {date} then substr({text}, {start}, {length}) end"


def _padded(text: str, most: int) -> str:
    """One or two plain digits as two, where they are within 1 and `most`; else null."""
    number = f"try_cast({text} as integer)"
    return f"case when {matches(text, _DAY_OR_MONTH)} and {number} between 1 and {most} then lpad({text}, 2, '0') end"


def birth_year() -> Rule:
    """Four digits from 1900 to this year, also out of an ISO date."""

    def four_digits(terms: Terms) -> str:
        return f"case when {matches(terms.text, _YEAR)} then {terms.text} else {_iso_part(terms.text, 1, 4)} end"

    def within(terms: Terms) -> str:
        year = f"try_cast({terms.value} as integer)"
        return f"case when {year} between 1900 and year(current_date) then {terms.value} end"

    return Rule("birth_year", 1, True, (four_digits, within), _always("birth_year_invalid"))


def birth_month() -> Rule:
    """`01` to `12`, from one or two digits, an English month's name or an ISO date."""
    whens = " ".join(f"when '{month}' then '{number:02}'" for number, month in enumerate(_MONTHS, start=1))

    def two_digits(terms: Terms) -> str:
        named = f"case {terms.value} {whens} end"
        return f"coalesce({_padded(terms.text, 12)}, {named}, {_iso_part(terms.text, 6, 2)})"

    return Rule("birth_month", 1, True, (_lower, two_digits), _always("birth_month_invalid"))


def birth_day() -> Rule:
    """`01` to `31`, from one or two digits or an ISO date."""

    def two_digits(terms: Terms) -> str:
        return f"coalesce({_padded(terms.text, 31)}, {_iso_part(terms.text, 9, 2)})"

    return Rule("birth_day", 1, True, (two_digits,), _always("birth_day_invalid"))


# -- ids ------------------------------------------------------------------------------------------------------


def maid(case: Case | None = "lower", hashed: bool = False, hexadecimal: bool = True) -> Rule:
    """A mobile advertising id, 8-4-4-4-12 with hyphens; all zeros mean that tracking is off and are refused.

    case         None: as issued
    hexadecimal  False: any ASCII letters, since a platform's own sample is not hexadecimal
    """
    digit = "[0-9A-Fa-f]" if hexadecimal else "[0-9A-Za-z]"
    shape = "-".join(f"{digit}{{{length}}}" for length in (8, 4, 4, 4, 12))
    zeros = "[0-]*0[0-]*"

    def cased(terms: Terms) -> str:
        real = f"{matches(terms.text, shape)} and not {matches(terms.text, zeros)}"
        return f"case when {real} then {case or ''}({terms.text}) end"

    def reason(text: str) -> str:
        return f"case when {matches(text, zeros)} then 'maid_zero' else 'maid_invalid' end"

    return Rule("maid", 1, hashed, (cased,), reason, (f"case={case}", f"hexadecimal={hexadecimal}"))


def domain() -> Rule:
    """The bare name of a web site or of mail: lower case, without scheme, `www.`, port and path."""
    scheme, rest = literal(r"^[a-z][a-z0-9+.-]*://"), literal(r"[/:?#].*$")
    shape = rf"{_LABEL}(?:\.{_LABEL})+"

    def bare(terms: Terms) -> str:
        host = f"regexp_replace(regexp_replace({terms.value}, {scheme}, ''), {rest}, '', 's')"
        return f"regexp_replace({host}, '^www\\.', '')"

    def checked(terms: Terms) -> str:
        return f"case when {matches(terms.value, shape)} then {terms.value} end"

    return Rule("domain", 1, False, (_lower, bare, checked), _always("domain_invalid"))


def linkedin_organization() -> Rule:
    """LinkedIn's URN of an organization; a bare number is put into one."""
    shape, prefix = r"(?:urn:li:organization:)?\d+", "urn:li:organization:"

    def wrapped(terms: Terms) -> str:
        number = f"regexp_extract({terms.value}, {literal(r'[0-9]+$')})"
        return f"case when {matches(terms.value, shape)} then {literal(prefix)} || {number} end"

    return Rule("linkedin_organization", 1, False, (_lower, wrapped), _always("organization_invalid"))


def opaque_id() -> Rule:
    """The sender's own key, in clear: trimmed, case kept. What holds an e-mail address is refused: it may be no key."""

    def checked(terms: Terms) -> str:
        return f"case when not {matches(terms.value, _HOLDS_EMAIL)} then {terms.value} end"

    return Rule("opaque_id", 2, False, (checked,), _always("holds_email"))


# -- consent --------------------------------------------------------------------------------------------------

_GRANTED = ("true", "t", "yes", "y", "1", "granted", "consent_granted")
_DENIED = ("false", "f", "no", "n", "0", "denied", "consent_denied")


def consent(granted: str, denied: str) -> Rule:
    """A platform's two words for a yes and a no, in clear. Any other word says nothing, and nothing is sent."""

    def worded(terms: Terms) -> str:
        yes, no = (", ".join(literal(word) for word in words) for words in (_GRANTED, _DENIED))
        said = f"when {terms.value} in ({yes}) then {literal(granted)} when {terms.value} in ({no}) then"
        return f"case {said} {literal(denied)} end"

    return Rule("consent", 1, False, (_lower, worded), _nothing_left, (f"granted={granted}", f"denied={denied}"))


_ANDROID_ID = "[0-9A-Fa-f]{16}"
_MAID = "-".join(f"[0-9A-Fa-f]{{{length}}}" for length in (8, 4, 4, 4, 12))


def _device(name: str, shape: str) -> Rule:
    def lower_case(terms: Terms) -> str:
        real = f"{matches(terms.text, shape)} and not {matches(terms.text, '[0-]+')}"
        return f"case when {real} then lower({terms.text}) end"

    # One id in 1,300 is fifteen digits and an `e`; a number column would put a point behind its first digit.
    return Rule(name, 2, True, (lower_case,), _always("device_id_invalid"), shape=_ANDROID_ID)


def android_id() -> Rule:
    """The id of an Android device, 16 hexadecimal digits, lower case; all zeros are refused."""
    return _device("android_id", _ANDROID_ID)


def device_id() -> Rule:
    """A mobile advertising id (8-4-4-4-12) or an Android id, lower case; all zeros are refused."""
    return _device("device_id", f"{_MAID}|{_ANDROID_ID}")


def handle() -> Rule:
    """A user's name, lower case, without the `@`; letters, digits and `_` only."""

    def bare(terms: Terms) -> str:
        return f"regexp_replace({terms.value}, '^@', '')"

    def checked(terms: Terms) -> str:
        return f"case when {matches(terms.value, '[a-z0-9_]+')} then {terms.value} end"

    def reason(text: str) -> str:
        return f"case when {text} <> '@' then 'handle_invalid' end"

    return Rule("handle", 1, True, (_lower, bare, checked, _present), reason)


def numeric_id() -> Rule:
    """A platform's own id of a person: decimal digits and nothing else."""

    def digits(terms: Terms) -> str:
        return f"case when {matches(terms.text, '[0-9]+')} then {terms.text} end"

    return Rule("numeric_id", 1, True, (digits,), _always("numeric_id_invalid"))
