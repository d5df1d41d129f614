"""Every rule against the platform's worked examples, awkward input, and its twin in plain Python."""

from __future__ import annotations

import functools
import hashlib
import itertools
import unicodedata
from collections.abc import Callable, Sequence

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbt_segments.identifiers import rules
from dbt_segments.identifiers.encode import Column, encode_identifiers
from dbt_segments.identifiers.rules import Rule
from tests import twin

META = {
    "email": rules.email(),
    "phone": rules.phone(),
    "first_name": rules.name(),
    "last_name": rules.name(),
    "fi": rules.initial(),
    "gender": rules.gender(),
    "doby": rules.birth_year(),
    "dobm": rules.birth_month(),
    "dobd": rules.birth_day(),
    "city": rules.city(),
    "region": rules.region(),
    "postal_code": rules.postal_code(),
    "country": rules.country(),
    "maid": rules.maid(hexadecimal=False),
    "external_id": rules.opaque_id(),
}

# The worked examples of Meta's contract: identifier, raw, row's country, normalised, SHA-256.
WORKED = [
    ("email", " Jane.Doe+news@Gmail.com ", None, "jane.doe+news@gmail.com",
     "f41439c944a763c9812d700a779941cec169de13c9ccd13aaf9424ba5231620a"),
    ("email", "Mary@Example.com", None, "mary@example.com",
     "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"),
    ("phone", "+1 (800) 555-0100", None, "18005550100",
     "92cfdc5fbcd4a20fbe5d3857af6c1aba31762105bba7f21a17155e920653046c"),
    ("phone", "+44 (0)20 7946 0958", None, "442079460958",
     "35e206e5dec4c89b9e8b71b8c32724a5bb518483ac5a20c6617d738375b3b823"),
    ("phone", "+1 555-987-6543", None, "15559876543",
     "1ef970831d7963307784fa8688e8fce101a15685d62aa765fed23f3a2c576a4e"),
    ("first_name", " Mary ", None, "mary", "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec"),
    ("first_name", "José", None, "josé", "d994e1d001886fe5b45b1267bd1fa2b752ac50742579bd3dad7b2a2aa0ed6866"),
    ("last_name", "O'Brien", None, "obrien", "b4cb6cb33fe4b865868de825023a1e2790dc12ac01ecc8d7c5afe8254071c8ba"),
    ("last_name", "Garcia-Lopez", None, "garcialopez",
     "4dad2336feab2a219731fdcf9fe327281b28600ffff407649ac7423c5d5d4952"),
    ("fi", "Mary", None, "m", "62c66a7a5dd70c3146618063c344e531e6d4b59e379808443ce962b3abd63c5a"),
    ("fi", "Jane", None, "j", "189f40034be7a199f1fa9891668ee3ab6049f82d38c68be70f596eab2e1857b7"),
    ("gender", "Female", None, "f", "252f10c83610ebca1a059c0bae8255eba2f95be4d1d7bcfa89d7248a82d9f111"),
    ("gender", "M", None, "m", "62c66a7a5dd70c3146618063c344e531e6d4b59e379808443ce962b3abd63c5a"),
    ("doby", "1985", None, "1985", "78e370b587b145920213731b7c7c725e512b3b6577c51c800218a7c764c532ae"),
    ("doby", "2001-07-04", None, "2001", "85d6385b945c0d602103db39b0b654b2af93b5127938e26a959c123f0789b948"),
    ("dobm", "3", None, "03", "0b8efa5a3bf104413a725c6ff0459a6be12b1fd33314cbb138745baf39504ae5"),
    ("dobm", "July", None, "07", "19b100ab7725c612f3d80ff203ca53cea5cadaafae3bf0f88f0fb4089fe08815"),
    ("dobd", "7", None, "07", "19b100ab7725c612f3d80ff203ca53cea5cadaafae3bf0f88f0fb4089fe08815"),
    ("dobd", "31", None, "31", "eb1e33e8a81b697b75855af6bfcdbcbf7cbbde9f94962ceaec1ed8af21f5a50f"),
    ("city", "San Francisco", None, "sanfrancisco", "1a6bd4d9d79dc0a79b53795c70d3349fa9e38968a3fbefbfe8783efb1d2b6aac"),
    ("city", "St. Paul", None, "stpaul", "a95a07cc1ae972604720d59a1b91679af0b3db2027e87148c38fe06db8132071"),
    ("city", "Malmö", None, "malmo", "86c8729ce3a1d4b236de9b8b8a441cd9fe8e2a7feadae07f90ceaef4a11e1d45"),
    ("region", "CA", None, "ca", "6959097001d10501ac7d54c0bdb8db61420f658f2922cc26e46d536119a31126"),
    ("region", "ny", None, "ny", "1b06e2003f8420d6fa42badd8f77ec0f706b976b7a48b13c567dc5a559681683"),
    ("postal_code", "94103-1234", None, "94103", "91dc2519ea98c5002cf2091e6a12b772eafdce9dca618e626d7d3b8275361789"),
    ("postal_code", "EC2V 7HH", None, "ec2v7hh", "4dd3e0416331b32cdf2d5e448a338be128971f1dcb8a018c4b62b4c7f9e2dccc"),
    ("postal_code", "00-950", "Poland", "00950", "157c5bb53cacd69115a429c3a9257890995f3410caf57a12e1959f70c7b3fbec"),
    ("country", "FRA", None, "fr", "67ad8f41a7bb0a18c45f3efd8f6a32bdcd832bcf8f3f2eb44006c03d53076e18"),
    ("country", "France", None, "fr", "67ad8f41a7bb0a18c45f3efd8f6a32bdcd832bcf8f3f2eb44006c03d53076e18"),
    ("country", "US", None, "us", "79adb2a2fce5c6ba215fe5f27f532d4e7edbac4b6a5e09e1ef3a08084a904621"),
    ("country", "gb ", None, "gb", "0b407281768f0e833afef47ed464b6571d01ca4d53c12ce5c51d1462f4ad6677"),
    ("maid", "AB1234CD-E123-12FG-J123-000000000001", None, "ab1234cd-e123-12fg-j123-000000000001", None),
    ("maid", "38400000-8CF0-11BD-B23E-10B96E40000D", None, "38400000-8cf0-11bd-b23e-10b96e40000d", None),
    ("external_id", "cust-0042", None, "cust-0042", None),
    ("external_id", "A-17", None, "A-17", None),
]  # fmt: skip

# What no platform documents. Identifier, raw, row's country, normalised or None, reason or None.
AWKWARD: list[tuple[str, str | None, str | None, str | None, str | None]] = [
    ("email", "\u00a0\t Jane@example.com\n\u3000", None, "jane@example.com", None),
    ("email", "a@b.c", None, "a@b.c", None),
    ("email", "o'neil`s$x+y@example.org", None, "o'neil`s$x+y@example.org", None),
    ("email", "INFO@MÜNCHEN.EXAMPLE", None, "info@münchen.example", None),
    ("email", "ΝΙΚΟΣ@EXAMPLE.ORG", None, "νικος@example.org", None),
    ("email", "a@example.com, b@example.com", None, None, "email_invalid"),
    ("email", "a@example.com;b@example.com", None, None, "email_invalid"),
    ("email", "Jane Doe <jane@example.com>", None, None, "email_invalid"),
    ("email", "jane doe@example.com", None, None, "email_invalid"),
    ("email", "jane@example", None, None, "email_invalid"),
    ("email", "jane@.example.com", None, None, "email_invalid"),
    ("email", "jane@example..com", None, None, "email_invalid"),
    ("email", "jane@example.com.", None, None, "email_invalid"),
    ("email", "@example.com", None, None, "email_invalid"),
    ("email", "@", None, None, "email_invalid"),
    ("email", "12345", None, None, "email_invalid"),
    ("email", "a@b@example.com", None, None, "email_invalid"),
    ("email", "0cc175b9c0f1b6a831c399e269772661", None, None, "email_invalid"),
    ("email", None, None, None, None),
    ("email", " \u2003 ", None, None, None),
    ("email", "None", None, None, None),
    ("email", " NULL ", None, None, None),
    ("phone", "nan", None, None, None),
    ("phone", "+", None, None, "phone_no_digits"),
    ("phone", "18005550100.0", None, None, "number_text"),
    ("phone", "4.42079460958E+11", None, None, "number_text"),
    ("phone", "020 7946 0958", "United Kingdom", "442079460958", None),
    ("phone", "020 7946 0958", "Atlantis", None, "phone_no_country"),
    ("first_name", "D\u2019Arcy", None, "darcy", None),
    ("first_name", "Jose\u0301", None, "josé", None),
    ("first_name", "Anna Maria 2", None, "annamaria2", None),
    ("last_name", "ΠΑΠΑΔΟΠΟΥΛΟΣ", None, "παπαδοπουλος", None),
    ("last_name", "İnci", None, "i\u0307nci", None),
    ("last_name", "Null", None, None, None),
    ("last_name", "N.a.N.", None, None, None),
    ("last_name", "---", None, None, None),
    ("last_name", "12.0", None, None, "number_text"),
    ("fi", "'Élodie", None, "é", None),
    ("fi", "123", None, None, None),
    ("gender", " WOMAN ", None, "f", None),
    ("gender", "Mädchen", None, None, "gender_unknown"),
    ("gender", "mx", None, None, "gender_unknown"),
    ("doby", "1899", None, None, "birth_year_invalid"),
    ("doby", "2999", None, None, "birth_year_invalid"),
    ("doby", "85", None, None, "birth_year_invalid"),
    ("doby", "1985.0", None, None, "number_text"),
    ("doby", "1970-02-30", None, None, "birth_year_invalid"),
    ("dobm", "1970-12-31 00:00:00", None, "12", None),
    ("dobm", "13", None, None, "birth_month_invalid"),
    ("dobm", "00", None, None, "birth_month_invalid"),
    ("dobm", "Juillet", None, None, "birth_month_invalid"),
    ("dobd", "1970-12-31T08:15:00Z", None, "31", None),
    ("dobd", "32", None, None, "birth_day_invalid"),
    ("dobd", "007", None, None, "birth_day_invalid"),
    ("city", "Łódź", None, "lodz", None),
    ("city", "Tromsø", None, "tromso", None),
    ("city", "Weißenfels", None, "weissenfels", None),
    ("city", "ẞ-Stadt 12", None, "ssstadt", None),
    ("city", "İstanbul", None, "istanbul", None),
    ("city", "Diyarbakır", None, "diyarbakir", None),
    ("city", "Đà Nẵng", None, "danang", None),
    ("city", "Москва (Moskvá)", None, "москваmoskva", None),
    ("city", "Новый", None, "новый", None),
    ("city", "दिल्ली", None, "दिल्ली", None),
    ("city", "ながさき", None, "ながさき", None),
    ("city", "1234", None, None, None),
    ("region", "New  York", None, "ny", None),
    ("region", "District of Columbia", "USA", "dc", None),
    ("region", "Georgia", "Georgia", "georgia", None),
    ("region", "Île-de-France", "FR", "iledefrance", None),
    ("postal_code", "94103", None, "94103", None),
    ("postal_code", "941031234", None, "94103", None),
    ("postal_code", "94103 1234", "USA", "94103", None),
    ("postal_code", "2134", "US", None, "postal_code_invalid"),
    ("postal_code", "02134.0", "US", None, "number_text"),
    ("postal_code", "12227-000", "Brazil", "12227000", None),
    ("postal_code", "12227-000", None, "12227000", None),
    ("postal_code", "7", "IS", None, "postal_code_invalid"),
    ("country", "UK", None, "gb", None),
    ("country", "u.s.a.", None, "us", None),
    ("country", "Atlantis", None, None, "country_unknown"),
    ("maid", "00000000-0000-0000-0000-000000000000", None, None, "maid_zero"),
    ("maid", "00000000000000000000000000000000", None, None, "maid_zero"),
    ("maid", "384000008cf011bdb23e10b96e40000d", None, None, "maid_invalid"),
    ("maid", "jane@example.com", None, None, "maid_invalid"),
    ("external_id", "\u00a0A-17\t", None, "A-17", None),
    ("external_id", "17.0", None, None, "number_text"),
    ("external_id", "Ada@Example.com", None, None, "holds_email"),
    ("external_id", "user:ada@example.com", None, None, "holds_email"),
    ("external_id", "team@work", None, "team@work", None),
    ("external_id", "nan", None, None, None),
]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _workbench() -> duckdb.DuckDBPyConnection:
    """One for all tests: they make thousands of small tables, and opening costs more than using it."""
    return duckdb.connect(config={"threads": 1})


def encoded(
    rule: Rule, raw: Sequence[str | None], country: str | None = None, default_country: str | None = None
) -> list[tuple[str | None, str | None]]:
    """(what is sent, reason) of each text, in order."""
    con = _workbench()
    con.execute(
        "create or replace table source as "
        "select unnest(range(?)) as n, unnest(?::varchar[]) as raw, ?::varchar as country",
        [len(raw), list(raw), country],
    )
    con.execute("drop table if exists target")
    column = Column("x", "raw", "country")
    encode_identifiers(con, "source", "target", [column], {"x": rule}, default_country, ["n"])
    return con.execute("select x, x__reason from target order by n").fetchall()


@pytest.mark.parametrize(("identifier", "raw", "country", "normalised", "digest"), WORKED)
def test_worked_examples_of_meta(
    identifier: str, raw: str, country: str | None, normalised: str, digest: str | None
) -> None:
    """Each of the platform's worked examples comes out as its contract prints it."""
    assert encoded(META[identifier], [raw], country) == [(digest or normalised, None)]
    assert digest is None or digest == sha256(normalised)


def test_awkward_input() -> None:
    """Input that no platform documents is normalised, refused with its reason, or absent."""
    ordered = sorted(AWKWARD, key=lambda case: (case[0], case[2] or ""))
    for (identifier, country), cases in itertools.groupby(ordered, key=lambda case: (case[0], case[2])):
        wanted = list(cases)
        answers = encoded(META[identifier], [raw for _, raw, *_ in wanted], country)
        for (_, raw, _, normalised, reason), answer in zip(wanted, answers, strict=True):
            hashed = META[identifier].hashed and normalised is not None
            assert answer == (sha256(normalised or "") if hashed else normalised, reason), (identifier, raw)


def test_platforms_differ() -> None:
    """The options of the factories change what is sent as they say."""
    idfa = "EA7583CD-A667-48BC-B806-42ECB2B48606"
    assert encoded(rules.phone(plus=True), ["0044 20 7946 0958"]) == [(sha256("+442079460958"), None)]
    assert encoded(rules.city(fold=False), ["Malmö 2"]) == [(sha256("malmö"), None)]
    assert encoded(rules.country("upper", hashed=False), ["germany"]) == [("DE", None)]
    assert encoded(rules.maid("upper", hashed=True), [idfa.lower()]) == [(sha256(idfa), None)]
    assert encoded(rules.maid(), ["AB1234CD-E123-12FG-J123-000000000001"]) == [(None, "maid_invalid")]


@pytest.mark.parametrize("wrap", [str, str.upper, lambda text: f" \u00a0{text}\n"])
def test_a_hash_is_taken_as_it_is(wrap: Callable[[str], str]) -> None:
    """64 hexadecimal digits, in any case, go out in lower case wherever the platform takes hashes."""
    digest = sha256("jane@example.com")
    for identifier, rule in META.items():
        sent = encoded(rule, [wrap(digest)])
        if rule.hashed:
            assert sent == [(digest, None)], identifier
    assert encoded(META["external_id"], [wrap(digest)]) == [(wrap(digest).strip(), None)]
    assert encoded(META["maid"], [wrap(digest)]) == [(None, "maid_invalid")]
    assert encoded(META["phone"], [wrap("1" * 64)]) == [("1" * 64, None)]


@pytest.mark.parametrize("length", [32, 40, 63, 65])
def test_other_lengths_are_no_hash(length: int) -> None:
    """A digest of another length takes the ordinary path, where the checks refuse it."""
    assert encoded(META["email"], ["a" * length]) == [(None, "email_invalid")]
    assert encoded(META["country"], ["a" * length]) == [(None, "country_unknown")]
    ((phone, reason),) = encoded(META["phone"], [("a1" * length)[:length]])
    assert phone is None
    assert reason in ("phone_too_long", "phone_invalid")


TWINS: dict[str, tuple[Rule, Callable[[str, str | None], str | None]]] = {
    "email": (rules.email(), twin.email),
    "email without spaces": (rules.email(unspaced=True), twin.email_unspaced),
    "email of Gmail": (rules.email(unspaced=True, gmail=True), twin.email_of_gmail),
    "bare email": (rules.bare_email(), twin.bare_email),
    "name": (rules.name(), twin.name),
    "first name with spaces": (rules.spaced_name("title"), twin.first_name_spaced),
    "last name with spaces": (rules.spaced_name("suffix"), twin.last_name_spaced),
    "name as written": (rules.name_as_written(35), twin.name_as_written),
    "initial": (rules.initial(), twin.initial),
    "gender": (rules.gender(), twin.gender),
    "birth_year": (rules.birth_year(), twin.birth_year),
    "birth_month": (rules.birth_month(), twin.birth_month),
    "birth_day": (rules.birth_day(), twin.birth_day),
    "city": (rules.city(), twin.city),
    "city with accents": (rules.city(fold=False), twin.city_with_accents),
    "region": (rules.region(), twin.region),
    "postal_code": (rules.postal_code(), twin.postal_code),
    "postal code as written": (rules.postal_code_as_written(), twin.postal_code_as_written),
    "maid": (rules.maid(), twin.maid),
    "maid of any letters": (rules.maid(hexadecimal=False), twin.maid_any_letters),
    "android_id": (rules.android_id(), twin.android_id),
    "device_id": (rules.device_id(), twin.device_id),
    "handle": (rules.handle(), twin.handle),
    "numeric_id": (rules.numeric_id(), twin.numeric_id),
    "opaque_id": (rules.opaque_id(), twin.opaque_id),
}

# Of these, digits with an exponent are an id.
_DEVICES = ("android_id", "device_id")
# Characters that Unicode 3.2 knew: DuckDB and every supported Python agree on them.
_OLD = st.characters(exclude_categories=["Cs", "Co", "Cn"], exclude_characters="\0").filter(
    lambda character: unicodedata.ucd_3_2_0.category(character) != "Cn"
)
_MARKS = "\u0301\u0308\u0327\u2019\u00ad\u200d"
_TELLING = st.sampled_from(
    [*"aeiousAZ09@.-+'\"`,;<> ßøæłđıİΣσςΑλéÉñÅçйЙがガदिल्", *twin.WHITE_SPACE, *_MARKS],
)
_WHOLE = st.sampled_from([
    "jane@example.com", "A@B.C", "1985", "2001-07-04", "1900-02-29 10:00", "July", "Female", "California", "New York",
    "94103-1234", "94103", "17.0", "1e5", "nan", "None", "384000aB-8cf0-11bd-b23e-10b96e40000d", "a" * 64, "7", "12",
    "A.b+C@Gmail.com", "..@googlemail.com", "a b@c.d", "Mr. Jane", "Dr", "Doe Jr.", "Doe , III", "@Jack",
    "9774156682549e49",
])  # fmt: skip
_TEXTS = st.one_of(
    st.text(_TELLING, max_size=12),
    st.text(_OLD, max_size=8),
    _WHOLE,
    st.tuples(st.text(_TELLING, max_size=2), _WHOLE, st.text(_TELLING, max_size=2)).map("".join),
)


@pytest.mark.parametrize("name", TWINS)
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(texts=st.lists(_TEXTS, min_size=1, max_size=60), country=st.sampled_from([None, "US", "GB"]))
@example(texts=["ΑΣ.", "Α Σ", "ΑΣΣ Σ", "Σ", "ΑΣ'Α", "A\u0301Σ"], country=None)
def test_sql_is_its_python_twin(name: str, texts: list[str], country: str | None) -> None:
    """For any text the SQL of a rule sends what the plain Python of the twin says, or refuses with it."""
    rule, reference = TWINS[name]
    expected = []
    for raw in texts:
        text = twin.text(raw)
        if text is not None and rule.hashed and twin.is_digest(text):
            expected.append(text.lower())
        elif text is None or (twin.is_number_text(text) and not (name in _DEVICES and twin.android_id(text))):
            expected.append(None)
        else:
            normal = reference(text, country)
            expected.append(sha256(normal) if normal is not None and rule.hashed else normal)
    assert [sent for sent, _ in encoded(rule, texts, country)] == expected


_TAKES_ONE_WORD = ("first name with spaces", "last name with spaces")


@pytest.mark.parametrize("name", [name for name in TWINS if name not in ("opaque_id", "initial", *_TAKES_ONE_WORD)])
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(texts=st.lists(_TEXTS, min_size=1, max_size=60), country=st.sampled_from([None, "US", "GB"]))
def test_normal_forms_are_stable(name: str, texts: list[str], country: str | None) -> None:
    """Normalising what was normalised changes nothing."""
    rule, _ = TWINS[name]
    clear = Rule(rule.name, rule.version, False, rule.steps, rule.reason, rule.options, rule.lookup)
    once = [sent for sent, _ in encoded(clear, texts, country) if sent is not None]
    readable = [text for text in once if twin.text(text) == text and not twin.is_number_text(text)]
    assert [sent for sent, _ in encoded(clear, readable, country)] == readable
