r"""Text expressions in DuckDB's SQL, where the engine's own functions are not Unicode's.

`trim()` leaves tabs and no-break spaces, `\s` is ASCII only, `lower('İ')` loses its dot and knows no final sigma,
`strip_accents()` deletes the vowels of Hindi and the voicing marks of Japanese. Each function here takes the SQL of a
text and returns the SQL of a text; null stays null. Pass them columns: the argument is repeated in the result, so
that nested calls grow like a power. tests/twin.py says the same in Python.
"""

from __future__ import annotations

# Unicode's White_Space property (PropList.txt), to stand inside a character class.
WHITE_SPACE = r"\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"

# Words that a careless export writes for "nothing"; their hash must never leave.
EMPTY_WORDS = ("none", "null", "nan")

# Latin letters without a canonical decomposition, and the base letters they are read as.
_BASE_LETTERS = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ĳ": "ij", "þ": "th", "ð": "d", "đ": "d", "ø": "o", "ł": "l",
    "ħ": "h", "ŧ": "t", "ŋ": "n", "\u0131": "i", "\u017f": "s", "ĸ": "k",
}  # fmt: skip

# Final_Sigma of the Unicode Standard 3.13: a capital sigma after a cased letter and before none.
_CASED = r"\p{Lu}\p{Ll}\p{Lt}ªº\x{2160}-\x{217f}\x{24b6}-\x{24e9}"
_IGNORABLE = (
    r"\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:\x{b7}\x{387}\x{55f}\x{5f4}\x{2018}\x{2019}\x{2024}\x{2027}"
    r"\x{ff07}\x{ff0e}\x{ff1a}"
)
_FINAL_SIGMA = rf"([{_CASED}][{_IGNORABLE}]*)Σ([{_IGNORABLE}]*(?:[^{_CASED}{_IGNORABLE}]|$))"


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """An SQL string literal, or null."""
    return "null" if text is None else "'" + text.replace("'", "''") + "'"


def matches(text: str, pattern: str) -> str:
    """Whether the whole text matches an RE2 pattern."""
    return f"regexp_full_match({text}, {literal(pattern)})"


def without(text: str, characters: str) -> str:
    """The text less every character of a class such as `\\p{P}`."""
    return f"regexp_replace({text}, {literal(f'[{characters}]+')}, '', 'g')"


def trimmed(text: str) -> str:
    """The text less the white space around it."""
    return f"regexp_replace({text}, '^[{WHITE_SPACE}]+|[{WHITE_SPACE}]+$', '', 'g')"


def lowered(text: str) -> str:
    """Unicode lower case, with the two mappings that depend on more than one letter."""
    sigma = rf"regexp_replace({text}, {literal(_FINAL_SIGMA)}, '\1ς\2', 'g')"
    return f"lower(replace(case when contains({text}, 'Σ') then {sigma} else {text} end, 'İ', 'i\u0307'))"


def present(text: str) -> str:
    """The text, or null where it is empty or a word for nothing."""
    words = ", ".join(literal(word) for word in ("", *EMPTY_WORDS))
    return f"case when lower({text}) not in ({words}) then {text} end"


def folded(text: str) -> str:
    """Accents of Latin letters folded to their base letter; every other script as it is. Wants NFC, lower case."""
    all_latin = matches(text, r"(?:\p{Latin}\p{M}*)*")
    runs = r"\p{Latin}\p{M}*|[^\p{Latin}]+"
    each = "lambda part: case when regexp_matches(part, '^\\p{Latin}') then strip_accents(part) else part end"
    mixed = f"array_to_string(list_transform(regexp_extract_all({text}, {literal(runs)}), {each}), '')"
    latin = f"case when {all_latin} then strip_accents({text}) else {mixed} end"
    for letter, base in _BASE_LETTERS.items():
        latin = f"replace({latin}, '{letter}', '{base}')"
    return f"case when strlen({text}) = length({text}) then {text} else {latin} end"
