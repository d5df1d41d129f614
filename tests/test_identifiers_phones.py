"""Phone numbers to E.164, with and without a country."""

from __future__ import annotations

import pytest

from dbt_segments.identifiers.phones import e164_digits


@pytest.mark.parametrize(
    ("text", "country", "digits"),
    [
        # real-world style: a trunk zero after the country code
        ("+49 0711 2842222", None, "497112842222"),
        ("+43 01 5134505", None, "4315134505"),
        ("+44 (0)20 7946 0958", None, "442079460958"),
        ("0044 (0)20 7946 0958", "DE", "442079460958"),
        ("+352 (0)26123456", None, "35226123456"),
        # a zero that belongs to the number
        ("+39 06 69812345", None, "390669812345"),
        ("+39 (0)6 69812345", "US", "390669812345"),
        ("06 69812345", "IT", "390669812345"),
        # how a leading country code may be written
        ("+1 (800) 555-0100", "DE", "18005550100"),
        ("+001 800 555 0100", None, "18005550100"),
        ("++1 800 555 0100", None, "18005550100"),
        ("(+1) 800 555 0100", None, "18005550100"),
        ("(0044) 20 7946 0958", "US", "442079460958"),
        ("00 1 800 555 0100", "US", "18005550100"),
        # Unicode
        ("\uff0b\uff11 800 555 \uff10\uff11\uff10\uff10", None, "18005550100"),
        ("+٤٤ ٢٠ ٧٩٤٦ ٠٩٥٨", None, "442079460958"),
        ("+1\u00a0800\u2013555\u20130100", None, "18005550100"),
        # extensions are dropped
        ("+1 800 555 0100 ext. 12", None, "18005550100"),
        ("+1 800 555 0100 x12", None, "18005550100"),
        ("+1 800 555 0100;ext=12", None, "18005550100"),
        ("020 7946 0958 extension 12", "GB", "442079460958"),
        # words in front
        ("Tel. 020 7946 0958", "GB", "442079460958"),
        # national, with the row's country
        ("(800) 555-0100", "US", "18005550100"),
        ("1-800-555-0100", "US", "18005550100"),
        ("020 7946 0958", "GB", "442079460958"),
        ("442079460958", "GB", "442079460958"),
        ("0711 2842222", "DE", "497112842222"),
        ("33612345678", "FR", "33612345678"),
        ("4315134505", "AT", "4315134505"),
        # length is enough: sample numbers are not assigned
        ("+1 555 987 6543", None, "15559876543"),
        ("555 987 6543", "US", "15559876543"),
        # digits only, no country: country code first, if that makes a valid number
        ("18005550100", None, "18005550100"),
        ("442079460958", None, "442079460958"),
    ],
)
def test_numbers_that_are_read(text: str, country: str | None, digits: str) -> None:
    """A number that can be placed comes out as its E.164 digits."""
    assert e164_digits(text, country) == (digits, None)


@pytest.mark.parametrize(
    ("text", "country", "reason"),
    [
        ("+", None, "phone_no_digits"),
        ("n/a", "US", "phone_no_digits"),
        ("020 7946 0958", None, "phone_no_country"),
        ("(020) 7946 0958", None, "phone_no_country"),
        ("2079460958", None, "phone_no_country"),
        ("15559876543", None, "phone_no_country"),
        ("020 7946 0958", "AQ", "phone_no_country"),
        ("555-0100", "US", "phone_too_short"),
        ("+1 555", None, "phone_too_short"),
        ("+1 800 555 0100 0100 0100", None, "phone_too_long"),
        ("1" * 300, "US", "phone_too_long"),
        ("+999 123456789", None, "phone_country_code"),
        ("+44 (0)", None, "phone_too_short"),
        ("+1 800 555 0100, +1 800 555 0101", None, "phone_invalid"),
        ("000000000", None, "phone_invalid"),
        # a word is no digits, although a telephone has letters on its keys
        ("030 123456 home", "DE", "phone_invalid"),
        ("030 123456 (privat!)", "DE", "phone_invalid"),
        ("+49 171 1234567 mob.", None, "phone_invalid"),
        ("+1 800 FLOWERS", None, "phone_invalid"),
    ],
)
def test_numbers_that_are_refused(text: str, country: str | None, reason: str) -> None:
    """A number that cannot be placed is refused with the reason, never repaired."""
    assert e164_digits(text, country) == (None, reason)


@pytest.mark.parametrize(
    ("text", "country", "digits"),
    [
        ("490711 2842222", "DE", "497112842222"),
        ("43 0664 1234567", "AT", "436641234567"),
        ("0711 2842222", "DE", "497112842222"),
    ],
)
def test_a_national_number_with_the_own_code_in_front(text: str, country: str, digits: str) -> None:
    """Digits that only make sense with the country's own code are read so, and lose their trunk zero."""
    assert e164_digits(text, country) == (digits, None)


def test_a_number_is_read_once_for_all_platforms() -> None:
    """Reading is the dearest step of a first sync, and one segment goes to nine platforms."""
    e164_digits("+1 201 555 0142", "US")
    before = e164_digits.cache_info()
    assert e164_digits("+1 201 555 0142", "US") == ("12015550142", None)
    assert (e164_digits.cache_info().hits, e164_digits.cache_info().misses) == (before.hits + 1, before.misses)
