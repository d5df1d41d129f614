"""The Google Ads destination, played with values: raw cells in, calls out, replies in, outcomes out.

Expectations are typed from Google's Data Manager API v1 ("Formatting", "Understand API errors", "Diagnostics" and the
REST reference, read 2026-11), not from our own output. The hashes of the table are those that its guide's rules give.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest
from pydantic import ValidationError

from dbt_segments.destinations._google_ads_auth import ServiceAccount
from dbt_segments.destinations._google_ads_faults import RowsRefusedError
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size
from dbt_segments.destinations.google_ads import GoogleAds
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.identifiers.attempt import attempt

T = TypeVar("T")
LOGIN = {"client_id": "id-1", "client_secret": "hush-1", "refresh_token": "hush-2"}
LISTS = "/accountTypes/GOOGLE_ADS/accounts/1234567890/userLists"
MARK = "dbt-segments:state1:shop.vip.google_ads:n0nce"
AUDIENCE = Audience("8888888888", "VIP buyers", MARK, "1234567890")
INGEST, GET = Call("POST", "/audienceMembers:ingest"), Call("GET", f"{LISTS}/8888888888")
EMAIL = "d6117306485ed0e50afab3ac871e98f81699151f30281527d63ff5f233656c69"


def google(**settings: Any) -> GoogleAds:
    given = {"customer_id": "123-456-7890", "customer_match_terms": "accepted", **LOGIN, **settings}
    return GoogleAds(GoogleAds.settings_model.model_validate(given))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def play(flow: Flow[T], *replies: Any) -> tuple[T, list[Call]]:
    """The flow's result and its calls, answered in turn; an error is thrown into the flow."""
    calls, answers = [], iter(replies)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            answer = next(answers)
            call = flow.throw(answer) if isinstance(answer, Exception) else flow.send(Reply(200, {}, answer))
    except StopIteration as end:
        assert next(answers, None) is None, "more replies than calls"
        return end.value, calls


# -- identifiers ----------------------------------------------------------------------------------------------


def sent(identifier: str, value: Any, country: str | None = None) -> dict[str, Any]:
    rules = {name: accepts.rule for name, accepts in GoogleAds.identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value, "country": country}], rules)
    return answer


@pytest.mark.parametrize(
    ("identifier", "value", "country", "normalised", "expected"),
    [
        ("email", " Jane.Doe+news@Gmail.com ", None, "janedoe@gmail.com", EMAIL),
        (
            "email",
            "User.Name+NYC@Example.com",
            None,
            "user.name+nyc@example.com",
            "f109a2a632fbcea5fc82049f50beed3d8621bf9034399f437fb622222acccdac",
        ),
        (
            "phone",
            "(800) 555-0100",
            "US",
            "+18005550100",
            "fb4f73a6ec5fdb7077d564cdd22c3554b43ce49168550c3b12c547b78c517b30",
        ),
        (
            "phone",
            "+44 (0)20 7946 0958",
            None,
            "+442079460958",
            "f0bf0228144d9fe2bdf1da2d8ca698f17bf1410ee688b075c27062e47b6f0b6d",
        ),
        ("first_name", " Jane", None, "jane", "81f8f6dde88365f3928796ec7aa53f72820b06db8664f5fe76a7eb13e24546a2"),
        ("first_name", "José ", None, "josé", "d994e1d001886fe5b45b1267bd1fa2b752ac50742579bd3dad7b2a2aa0ed6866"),
        ("last_name", "DOE Jr.", None, "doe", "799ef92a11af918e3fb741df42934f3b568ed2d93ac1df74f1b8d41a27932a6f"),
        ("last_name", "O'Brien", None, "o'brien", "65b87174be3b1b122e2b0929f0b84888637d31a4a83bb96a860bcff411f5e668"),
    ],
)
def test_worked_examples(identifier: str, value: str, country: str | None, normalised: str, expected: str) -> None:
    """The digest of the normalised text, and nothing else, goes out."""
    assert sha(normalised) == expected
    answer = sent(identifier, value, country)
    assert (answer["sent"], answer["hashed"]) == (expected, True)


@pytest.mark.parametrize(
    ("identifier", "value", "expected"),
    [
        ("country", "us", "US"),
        ("country", "gb", "GB"),
        ("country", "USA", "US"),
        ("country", "United Kingdom", "GB"),
        ("postal_code", " 94103 ", "94103"),
        ("postal_code", "94103-1234", "94103-1234"),
        ("postal_code", "SW1A 1AA", "SW1A 1AA"),
        ("postal_code", "00-950", "00-950"),
        ("maid", "38400000-8cf0-11bd-b23e-10b96e40000d", "38400000-8cf0-11bd-b23e-10b96e40000d"),
        ("mobile_id", " 6D92078A-8246-4BA4-AE5B-76104861E7DC ", "6D92078A-8246-4BA4-AE5B-76104861E7DC"),
        ("external_id", " cust-0042 ", "cust-0042"),
        ("user_id", "A-17", "A-17"),
        ("external_id", EMAIL.upper(), EMAIL.upper()),
    ],
)
def test_what_travels_in_clear(identifier: str, value: str, expected: str) -> None:
    """Country, postal code and ids are not hashed, and never taken for hashes."""
    answer = sent(identifier, value)
    assert (answer["sent"], answer["hashed"]) == (expected, False)


@pytest.mark.parametrize(
    ("identifier", "value", "country", "normalised"),
    [
        ("email", "a.b+c@googlemail.com", None, "ab@googlemail.com"),
        ("email", "a.b+c@gmail.com.example", None, "a.b+c@gmail.com.example"),
        ("email", "ada lovelace @example.com", None, "adalovelace@example.com"),
        ("email", "\u00a0Ada@Exa\tmple.com\n", None, "ada@example.com"),
        ("email", "JOSÉ@example.com", None, "josé@example.com"),
        ("phone", "\uff0b４４ ２０ 7946 0958", None, "+442079460958"),
        ("phone", "0044 20 7946 0958", "US", "+442079460958"),
        ("phone", "0711 2842222", "DE", "+497112842222"),
        ("phone", "(800) 555-0100 ext. 7", "US", "+18005550100"),
        ("first_name", "Mrs. Anna  Maria", None, "anna maria"),
        ("first_name", "Dr", None, "dr"),
        ("first_name", "Drew", None, "drew"),
        ("first_name", "Jose\u0301", None, "josé"),
        ("last_name", "Smith, PhD", None, "smith"),
        ("last_name", "III", None, "iii"),
        ("last_name", "van  der\tBerg", None, "van der berg"),
        ("last_name", "Şahin-Öz", None, "şahin-öz"),
    ],
)
def test_awkward_values(identifier: str, value: str, country: str | None, normalised: str) -> None:
    """Unicode, full-width digits, trunk zeros, titles and suffixes as words of their own only."""
    assert sent(identifier, value, country)["sent"] == sha(normalised)


@pytest.mark.parametrize("value", [EMAIL, EMAIL.upper(), f"  {EMAIL} "])
def test_a_digest_is_not_hashed_again(value: str) -> None:
    """64 hexadecimal digits, in any case, go out in lower case."""
    for identifier in ("email", "phone", "first_name", "last_name"):
        assert sent(identifier, value)["sent"] == EMAIL


@pytest.mark.parametrize(
    ("identifier", "value", "country", "reason"),
    [
        *(("email", value, None, "absent") for value in (None, "", " \t", "\u00a0", "NULL", "nan")),
        *(
            ("email", value, None, "email_invalid")
            for value in (
                "...@gmail.com",
                "+tag@gmail.com",
                "@gmail.com",
                "ada@example.com,bob@example.com",
                "Ada <ada@example.com>",
                EMAIL[:63],
                EMAIL[:40],
                EMAIL[:32],
            )
        ),
        ("phone", "020 7946 0958", None, "phone_no_country"),
        ("phone", "12", "US", "phone_too_short"),
        ("country", "Atlantis", None, "country_unknown"),
        ("postal_code", "--", None, "postal_code_invalid"),
        ("postal_code", "ada@example.com", None, "holds_email"),
        ("maid", "00000000-0000-0000-0000-000000000000", None, "maid_zero"),
        ("maid", "384000008cf011bdb23e10b96e40000d", None, "maid_invalid"),
        ("maid", "38400000-8cf0-11bd-b23e-10b96e40000g", None, "maid_invalid"),
        ("city", "Berlin", None, "identifier_not_taken"),
    ],
)
def test_what_is_not_sent(identifier: str, value: Any, country: str | None, reason: str) -> None:
    """Left out with a reason; nothing is repaired."""
    answer = sent(identifier, value, country)
    assert (answer["sent"], answer["reason"]) == (None, reason)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((word, "CONSENT_GRANTED") for word in ("true", "T", " Yes ", "1", "granted")),
        *((word, "CONSENT_DENIED") for word in ("false", "f", "no", "0", "DENIED")),
        *((word, None) for word in (None, "", "maybe", "2", "true-ish")),
    ],
)
def test_words_of_consent(value: str | None, expected: str | None) -> None:
    """Only a clear yes is granted; of anything else than a clear no nothing is said."""
    assert sent("ad_user_data", value)["sent"] == expected


# -- rows -----------------------------------------------------------------------------------------------------


def written(op: Op, values: Mapping[str, str | None], **settings: Any) -> Any:
    cells = {
        name: "null::varchar" if value is None else "'\"" + value + "\"'"
        for name, value in values.items()
        if name in GoogleAds.identifiers
    }
    with duckdb.connect(":memory:") as con:
        ((text,),) = con.execute(f"select {google(**settings).write(op, cells)}").fetchall()
    return json.loads(text)


PERSON = {"email": "e", "phone": "p", "first_name": "f", "last_name": "l", "country": "US", "postal_code": "94103"}


def test_a_member_with_everything() -> None:
    """E-mail, phone and the whole address, each an identifier of its own."""
    address = {"givenName": "f", "familyName": "l", "regionCode": "US", "postalCode": "94103"}
    identifiers = [{"emailAddress": "e"}, {"phoneNumber": "p"}, {"address": address}]
    for op in (Op.ADD, Op.REMOVE):
        assert written(op, PERSON) == {"compositeData": {"userData": {"userIdentifiers": identifiers}}}


@pytest.mark.parametrize("missing", ["first_name", "last_name", "country", "postal_code"])
def test_an_address_goes_whole_or_not_at_all(missing: str) -> None:
    """Without one of its four parts nothing of it is sent, whether the member or the entity lacks it."""
    only = [{"emailAddress": "e"}, {"phoneNumber": "p"}]
    for values in ({**PERSON, missing: None}, {name: v for name, v in PERSON.items() if name != missing}):
        assert written(Op.ADD, values)["compositeData"]["userData"]["userIdentifiers"] == only


@pytest.mark.parametrize(
    ("consent", "cells", "expected"),
    [
        ({"ad_user_data": "granted", "ad_personalization": "granted"}, {}, None),
        ({"ad_user_data": "c"}, {"ad_user_data": "CONSENT_DENIED"}, {"adUserData": "CONSENT_DENIED"}),
        ({"ad_user_data": "c"}, {"ad_user_data": None}, None),
        (
            {"ad_user_data": "c", "ad_personalization": "denied"},
            {"ad_user_data": "CONSENT_GRANTED"},
            {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_DENIED"},
        ),
        (
            {"ad_user_data": "c", "ad_personalization": "granted"},
            {"ad_user_data": None},
            {"adPersonalization": "CONSENT_GRANTED"},
        ),
    ],
)
def test_consent_of_a_member(consent: dict[str, str], cells: dict[str, str | None], expected: Any) -> None:
    """Written where a column decides it; what is not known is left out, and a removal says nothing of it."""
    values = {"email": "e", **cells}
    assert written(Op.ADD, values, consent=consent).get("consent") == expected
    assert "consent" not in written(Op.REMOVE, values, consent=consent)


@pytest.mark.parametrize(
    ("settings", "identifier", "data"),
    [
        (
            {"upload_key_type": "mobile_id", "app_id": "com.example", "key_space": "android"},
            "maid",
            {"mobileData": {"mobileIds": ["m"]}},
        ),
        ({"upload_key_type": "user_id"}, "external_id", {"userIdData": {"userId": "m"}}),
    ],
)
def test_consent_by_a_column_in_other_kinds_of_lists(settings: Any, identifier: str, data: Any) -> None:
    """It stands beside the ids and is none of them."""
    consent = {"ad_user_data": "c", "ad_personalization": "d"}
    cells = {identifier: "m", "ad_user_data": "CONSENT_GRANTED", "ad_personalization": "CONSENT_DENIED"}
    said = {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_DENIED"}
    assert written(Op.ADD, cells, consent=consent, **settings) == {**data, "consent": said}
    assert written(Op.REMOVE, cells, consent=consent, **settings) == data


def test_other_kinds_of_lists() -> None:
    """One kind of key a list, as the connection says."""
    mobile = {"upload_key_type": "mobile_id", "app_id": "com.example", "key_space": "android"}
    assert written(Op.ADD, {"maid": "m"}, **mobile) == {"mobileData": {"mobileIds": ["m"]}}
    assert written(Op.ADD, {"external_id": "x"}, upload_key_type="user_id") == {"userIdData": {"userId": "x"}}
    assert list(GoogleAds.offers(google().settings)) == list(PERSON)
    assert list(GoogleAds.offers(google(**mobile).settings)) == ["maid", "aaid"]
    assert list(GoogleAds.offers(google(**{**mobile, "key_space": "ios"}).settings)) == ["maid", "idfa"]
    for aaid, ids in (("a", ["m", "a"]), ("m", ["m"]), (None, ["m"])):
        assert written(Op.ADD, {"maid": "m", "aaid": aaid}, **mobile) == {"mobileData": {"mobileIds": ids}}
    assert written(Op.ADD, {"maid": None, "aaid": "a"}, **mobile) == {"mobileData": {"mobileIds": ["a"]}}
    body = json.loads(next(google(**mobile).create("VIP", MARK)).body or "")
    assert body["ingestedUserListInfo"] == {
        "uploadKeyTypes": ["MOBILE_ID"],
        "mobileIdInfo": {
            "dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY",
            "appId": "com.example",
            "keySpace": "ANDROID",
        },
    }


# -- settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"customer_id": "12x"}, "digits"),
        ({"login_customer_id": "manager"}, "digits"),
        ({"service_account_file": "key.json"}, "not both"),
        ({"refresh_token": None}, "required together"),
        ({"customer_match_terms": "yes"}, "accepted"),
        ({"upload_key_type": "mobile_id"}, "app_id"),
        ({"consent": {"ad_userdata": "granted"}}, "ad_userdata"),
        ({"consent": {"ad_user_data": "GRANTED"}}, "must be `granted`, `denied` (in lower case), or the name"),
        ({"consent": {"ad_user_data": "consent_denied "}}, "must be `granted`, `denied` (in lower case), or the name"),
        ({"consent": {"ad_personalization": True}}, "must be `granted`, `denied` (in lower case), or the name"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], said: str) -> None:
    """Each mistake is told before anything is sent, without a secret."""
    with pytest.raises(ValidationError) as caught:
        google(**settings)
    assert said in str(caught.value)
    assert "hush" not in str(caught.value)


def test_ids_with_hyphens() -> None:
    """As Google Ads shows them."""
    settings = google(login_customer_id="987-654-3210").settings
    assert (settings.customer_id, settings.login_customer_id) == ("1234567890", "9876543210")


def test_without_the_terms_every_sync_is_held() -> None:
    """The reason begins with its code, and says what to write."""
    assert google().held() is None
    held = google(customer_match_terms=None).held() or ""
    assert held.startswith("terms_not_accepted: ")
    assert "customer_match_terms: accepted" in held


def test_absent_consent_is_warned_about() -> None:
    """One warning that names what is absent."""
    both = {"ad_user_data": "granted", "ad_personalization": "may_personalise"}
    assert google(consent=both).warnings() == ()
    assert "ad_personalization not set" in google(consent={"ad_user_data": "granted"}).warnings()[0]
    assert "ad_user_data and ad_personalization" in google().warnings()[0]


# -- lists ----------------------------------------------------------------------------------------------------

ENTRY = {
    "name": f"{LISTS[1:]}/8888888888",
    "id": "8888888888",
    "displayName": "VIP buyers",
    "description": f"orders > 5 {MARK}",
    "membershipStatus": "OPEN",
    "sizeInfo": {"displayNetworkMembersCount": "1500", "searchNetworkMembersCount": "1200"},
    "ingestedUserListInfo": {
        "uploadKeyTypes": ["CONTACT_ID"],
        "contactIdInfo": {"dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY", "matchRatePercentage": 61},
    },
}


def test_create() -> None:
    """A list of contact data with our mark, for 540 days."""
    audience, [call] = play(google().create("VIP buyers", MARK), {**ENTRY, "description": MARK})
    assert (call.method, call.path, call.safe) == ("POST", LISTS, True)
    assert json.loads(call.body or "") == {
        "displayName": "VIP buyers",
        "description": MARK,
        "membershipDuration": "46656000s",
        "ingestedUserListInfo": {
            "uploadKeyTypes": ["CONTACT_ID"],
            "contactIdInfo": {"dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY"},
        },
    }
    assert audience == AUDIENCE


@pytest.mark.parametrize("code", ["DISPLAY_NAME_ALREADY_USED", "ALREADY_EXISTS"])
def test_a_list_whose_making_was_not_answered_is_found(code: str) -> None:
    """The name is taken by our own mark: that is it. By somebody else's: refused."""
    taken = RefusedError("taken", code=code)
    audience, calls = play(google().create("VIP buyers", MARK), taken, {"userLists": [ENTRY]})
    assert (audience, [call.method for call in calls]) == (AUDIENCE, ["POST", "GET"])
    with pytest.raises(RefusedError):
        play(google().create("VIP buyers", MARK), taken, {"userLists": [{**ENTRY, "description": "by hand"}]})


def test_find_reads_every_page() -> None:
    """By mark and by name, lowest id first; an account without lists answers an empty object."""
    first = {
        "userLists": [
            {**ENTRY, "displayName": "Renamed"},
            {"id": "12", "displayName": "Other", "description": "dbt-segments:state1:shop.vip.google_ads2:x"},
        ],
        "nextPageToken": "page-2",
    }
    second = {"userLists": [{"id": "9", "displayName": "VIP buyers"}]}
    found, calls = play(google().find(MARK, "VIP buyers"), first, second)
    assert [call.query.get("pageToken") for call in calls] == [None, "page-2"]
    assert found == [
        Audience("9", "VIP buyers", "", "1234567890"),
        Audience("8888888888", "Renamed", MARK, "1234567890"),
    ]
    assert play(google().find(MARK, "VIP buyers"), {})[0] == []


def test_a_manager_is_named_in_a_header_and_in_bodies() -> None:
    """Only where access comes through one."""
    for settings, header, login in (
        ({}, {}, None),
        (
            {"login_customer_id": "9876543210"},
            {"login-account": "accountTypes/GOOGLE_ADS/accounts/9876543210"},
            {"accountType": "GOOGLE_ADS", "accountId": "9876543210"},
        ),
    ):
        destination = google(**settings)
        assert next(destination.get("8888888888")).headers == header
        body = json.loads(next(destination.push(AUDIENCE, batch())).body or "")
        assert body["destinations"][0].get("loginAccount") == login


def test_a_list_that_is_taken_over_remembers_as_long_as_ours() -> None:
    """Members are asserted again in time for 540 days; a list of 30 would lose them long before."""
    entry = {**ENTRY, "description": MARK, "membershipDuration": "2592000s"}
    _, calls = play(google().adopt(AUDIENCE, MARK), entry, {})
    assert (calls[1].method, dict(calls[1].query)) == ("PATCH", {"updateMask": "membershipDuration"})
    assert json.loads(str(calls[1].body)) == {"membershipDuration": "46656000s"}


def test_adopt_keeps_the_words() -> None:
    """People's own description stays, an older mark of ours goes, and our own is not written twice."""
    old = {**ENTRY, "description": "orders > 5 dbt-segments:lost:shop.vip.google_ads:old"}
    audience, calls = play(google().adopt(Audience("8888888888", "VIP buyers"), MARK), old, {})
    assert audience.mark == MARK
    assert (calls[1].method, calls[1].query) == ("PATCH", {"updateMask": "description"})
    assert json.loads(calls[1].body or "") == {"description": f"orders > 5 {MARK}"}
    assert len(play(google().adopt(AUDIENCE, MARK), {**ENTRY, "description": MARK})[1]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ingestedUserListInfo": {"uploadKeyTypes": ["MOBILE_ID"]}},
        {"ingestedUserListInfo": None},
        {"readOnly": True},
    ],
)
def test_a_list_that_takes_no_such_members_is_refused(change: dict[str, Any]) -> None:
    """Before anything is sent to it."""
    for flow in (google().get("8888888888"), google().adopt(AUDIENCE, MARK)):
        with pytest.raises(RefusedError):
            play(flow, {**ENTRY, **change})


def test_size_and_match_rate() -> None:
    """Counts of two networks; all zeros are not settled, or too small to show."""
    assert play(google().size(AUDIENCE), ENTRY)[0] == Size(1200, 1500, "open", 0.61)
    zeros = {"displayNetworkMembersCount": "0", "searchNetworkMembersCount": "0"}
    bare = {**ENTRY, "sizeInfo": zeros, "ingestedUserListInfo": {"uploadKeyTypes": ["CONTACT_ID"]}}
    assert play(google().size(AUDIENCE), bare)[0] == Size(status="processing")


def test_delete_is_done_where_it_is_gone() -> None:
    """A list that is not there needs no deleting."""
    assert play(google().delete(AUDIENCE), {})[1][0].method == "DELETE"
    play(google().delete(AUDIENCE), GoneError("gone"))


def test_check() -> None:
    """One call that changes nothing; what the login may do, the terms and consent."""
    findings, [call] = play(google().check(), {})
    assert (call.method, call.path, call.query) == ("GET", LISTS, {"pageSize": "1"})
    assert {(one.what, one.good) for one in findings} == {
        ("credentials", True),
        ("account", True),
        ("terms", None),
        ("consent", False),
        ("token", None),
    }
    refused, _ = play(google(customer_match_terms=None).check(), AuthError("no", code="x", hint="log in"))
    assert {(one.what, one.good, one.hint) for one in refused} >= {("credentials", False, "log in")}
    assert [one.good for one in refused if one.what == "terms"] == [False]


# -- members --------------------------------------------------------------------------------------------------


def batch(op: Op = Op.ADD, rows: str = '{"a":0},{"a":1},{"a":2},{"a":3}') -> Batch:
    count = len(json.loads(f"[{rows}]"))
    return Batch(op, rows, count, 1, True, count, "g1-b1", 7)


def body_of(call: Call) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call.body or "")
    return found


def test_an_ingest() -> None:
    """Terms, encoding, constants of consent; an accepted request is a job and nothing more."""
    consent = {"ad_user_data": "granted", "ad_personalization": "denied"}
    outcome, [call] = play(google(consent=consent).push(AUDIENCE, batch()), {"requestId": "r-1"})
    assert (call.method, call.path, call.query, call.safe) == ("POST", "/audienceMembers:ingest", {}, True)
    assert body_of(call) == {
        "destinations": [
            {
                "reference": "d1",
                "operatingAccount": {"accountType": "GOOGLE_ADS", "accountId": "1234567890"},
                "productDestinationId": "8888888888",
            }
        ],
        "encoding": "HEX",
        "consent": {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_DENIED"},
        "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
        "audienceMembers": [{"a": 0}, {"a": 1}, {"a": 2}, {"a": 3}],
    }
    assert outcome == Outcome(job="r-1", done=False)


def test_a_removal_knows_neither_terms_nor_consent() -> None:
    """Both would be refused as unknown."""
    consent = {"ad_user_data": "granted", "ad_personalization": "granted"}
    _, [call] = play(google(consent=consent).push(AUDIENCE, batch(Op.REMOVE)), {"requestId": "r-1"})
    assert call.path == "/audienceMembers:remove"
    assert set(body_of(call)) == {"destinations", "encoding", "audienceMembers"}


def test_a_column_of_consent_takes_the_place_of_the_request_s() -> None:
    """Else a member of whom nothing is known would be sent as granted."""
    consent = {"ad_user_data": "granted", "ad_personalization": "may_personalise"}
    _, [call] = play(google(consent=consent).push(AUDIENCE, batch()), {"requestId": "r-1"})
    assert "consent" not in body_of(call)


def test_members_that_are_refused_are_left_out() -> None:
    """Their places are those of the batch, however often the rest is sent again."""
    first = RowsRefusedError("x", code="INVALID_FORMAT", rows={1: "INVALID_FORMAT"})
    second = RowsRefusedError("x", code="INVALID_POSTAL_CODE", rows={2: "INVALID_POSTAL_CODE"})
    outcome, calls = play(google().push(AUDIENCE, batch()), first, second, {"requestId": "r-2"})
    assert [body_of(call)["audienceMembers"] for call in calls[1:]] == [
        [{"a": 0}, {"a": 2}, {"a": 3}],
        [{"a": 0}, {"a": 2}],
    ]
    assert outcome == Outcome(job="r-2", done=False, refused={1: "INVALID_FORMAT", 3: "INVALID_POSTAL_CODE"})


def test_a_batch_of_refused_members_needs_no_job() -> None:
    """All of them named: nothing is left to send."""
    every = RowsRefusedError("x", code="INVALID_FORMAT", rows=dict.fromkeys(range(4), "INVALID_FORMAT"))
    outcome, calls = play(google().push(AUDIENCE, batch()), every)
    assert (outcome.job, set(outcome.refused), len(calls)) == (None, {0, 1, 2, 3}, 1)


def test_a_place_outside_the_batch_refuses_all_of_it() -> None:
    """Nobody is blamed for it."""
    outside = RowsRefusedError("x", code="INVALID_FORMAT", rows={4: "INVALID_FORMAT"})
    with pytest.raises(RefusedError):
        play(google().push(AUDIENCE, batch()), outside)


def test_what_google_has_against_members_that_it_takes_is_told() -> None:
    """By its reasons alone: a field or a description may hold anything."""
    field = {"field": "audience_members[0]", "description": "ada@example.com", "reason": "SOMETHING_ODD"}
    said = [field, field, {"reason": "for ada@example.com"}, "odd"]
    outcome, _ = play(google().push(AUDIENCE, batch()), {"requestId": "r-1", "fieldWarnings": said})
    expected = ("google_ads: members were taken with warnings (SOMETHING_ODD, UNNAMED)",)
    assert outcome == Outcome(job="r-1", done=False, warnings=expected)


def test_an_empty_batch_makes_no_call() -> None:
    """No rows, no request."""
    assert play(google().push(AUDIENCE, batch(rows=""))) == (Outcome(), [])


def status(word: str, *errors: tuple[str, str]) -> dict[str, Any]:
    counts = [{"recordCount": count, "reason": f"PROCESSING_ERROR_REASON_{reason}"} for count, reason in errors]
    one: dict[str, Any] = {"destination": {"reference": "d1"}, "requestStatus": word}
    return {"requestStatusPerDestination": [{**one, **({"errorInfo": {"errorCounts": counts}} if counts else {})}]}


def warned(word: str, *warnings: tuple[str, str]) -> dict[str, Any]:
    """A status that has something against members that were taken."""
    found = status(word)
    counts = [{"recordCount": count, "reason": f"PROCESSING_WARNING_REASON_{reason}"} for count, reason in warnings]
    found["requestStatusPerDestination"][0]["warningInfo"] = {"warningCounts": counts}
    return found


def counted(word: str, said: dict[str, str], verb: str = "audienceMembersIngestionStatus") -> dict[str, Any]:
    """A status that says how many members there were."""
    found = status(word)
    kind = "compositeDataIngestionStatus" if "Ingestion" in verb else "compositeDataRemovalStatus"
    found["requestStatusPerDestination"][0][verb] = {kind: said}
    return found


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (status("SUCCESS"), Outcome()),
        (
            status("PARTIAL_SUCCESS", ("3", "INVALID_FORMAT"), ("2", "NO_CONSENT")),
            Outcome(
                unattributed=5, warnings=("google_ads: members were not taken (INVALID_FORMAT: 3, NO_CONSENT: 2)",)
            ),
        ),
        (status("PARTIAL_SUCCESS"), Outcome(unattributed=1)),
        (
            status("SUCCESS", ("1", "for ada@example.com")),
            Outcome(unattributed=1, warnings=("google_ads: members were not taken (UNNAMED: 1)",)),
        ),
        (
            warned("SUCCESS", ("1200", "INTERNAL_ERROR")),
            Outcome(warnings=("google_ads: members were taken with warnings (INTERNAL_ERROR: 1,200)",)),
        ),
        (status("FAILED", ("4", "DENIED_CONSENT")), Outcome(lost="FAILED:DENIED_CONSENT")),
        (status("FAILURE"), Outcome(lost="FAILED")),
        (counted("SUCCESS", {"recordCount": "12"}), Outcome(counted=12)),
        (counted("SUCCESS", {"recordCount": "12"}, "audienceMembersRemovalStatus"), Outcome(counted=12)),
        (counted("PARTIAL_SUCCESS", {"recordCount": "12"}), Outcome(unattributed=1, counted=12)),
        (counted("SUCCESS", {}), Outcome(counted=0)),
        (status("PROCESSING"), Outcome(job="r-1", done=False)),
        (status("REQUEST_STATUS_UNKNOWN"), Outcome(job="r-1", done=False)),
        (RefusedError("x", code="REQUEST_TOO_OLD"), Outcome(lost="REQUEST_TOO_OLD")),
    ],
)
def test_what_becomes_of_a_job(answer: Any, expected: Outcome) -> None:
    """Ended, ended with members that it did not take, failed, running, or forgotten."""
    outcome, [call] = play(google().poll(AUDIENCE, "r-1"), answer)
    assert (call.path, call.query) == ("/requestStatus:retrieve", {"requestId": "r-1"})
    assert outcome == expected


@pytest.mark.parametrize("answer", [{}, status("FAILURE?"), {"requestStatusPerDestination": []}])
def test_a_status_that_cannot_be_read_leaves_the_job_open(answer: Any) -> None:
    """Unknown is asked again; it is neither done nor lost."""
    with pytest.raises(UnknownError):
        play(google().poll(AUDIENCE, "r-1"), answer)


def test_answers_that_prove_nothing() -> None:
    """A success without what was asked for."""
    flows: list[Flow[Any]] = [google().push(AUDIENCE, batch()), google().get("1"), google().create("A", MARK)]
    for flow in flows:
        with pytest.raises((UnknownError, RefusedError)) as caught:
            play(flow, {"unexpected": True})
        assert caught.value.code in ("requestId", "id", "list_type")


# -- faults ---------------------------------------------------------------------------------------------------


def refusal(http: int, word: str, *violations: tuple[str, str], reason: str = "", **metadata: str) -> Reply:
    """Google's error envelope."""
    details: list[dict[str, Any]] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason or word,
            "domain": "datamanager.googleapis.com",
            "metadata": {"requestId": "r-9", **metadata},
        }
    ]
    if violations:
        fields = [{"field": at, "description": "for ada@example.com", "reason": why} for at, why in violations]
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": fields})
    error = {"code": http, "status": word, "message": "for ada@example.com", "details": details}
    return Reply(http, {}, {"error": error})


ROW = "audience_members.audience_members[4].user_data.user_identifiers"
LIST = "destinations[0].product_destination_id"


@pytest.mark.parametrize(
    ("call", "reply", "error", "retry", "code"),
    [
        (INGEST, refusal(500, "INTERNAL"), UnknownError, True, "INTERNAL"),
        (INGEST, refusal(503, "UNAVAILABLE"), UnknownError, True, "UNAVAILABLE"),
        (INGEST, refusal(504, "DEADLINE_EXCEEDED"), UnknownError, True, "DEADLINE_EXCEEDED"),
        (INGEST, refusal(500, "UNKNOWN"), UnknownError, True, "UNKNOWN"),
        (INGEST, refusal(409, "ABORTED"), TransientError, True, "ABORTED"),
        (INGEST, refusal(429, "RESOURCE_EXHAUSTED"), TransientError, True, "RESOURCE_EXHAUSTED"),
        (INGEST, Reply(502), UnknownError, True, "502"),
        (INGEST, Reply(429), TransientError, True, "429"),
        (INGEST, refusal(401, "UNAUTHENTICATED"), AuthError, False, "UNAUTHENTICATED"),
        (INGEST, refusal(403, "PERMISSION_DENIED"), AuthError, False, "PERMISSION_DENIED"),
        (
            INGEST,
            refusal(400, "INVALID_ARGUMENT", reason="TERMS_AND_CONDITIONS_NOT_SIGNED"),
            AuthError,
            False,
            "TERMS_AND_CONDITIONS_NOT_SIGNED",
        ),
        (INGEST, refusal(400, "INVALID_ARGUMENT"), RefusedError, False, "INVALID_ARGUMENT"),
        *(
            (INGEST, refusal(400, "INVALID_ARGUMENT", (ROW, why)), RefusedError, False, why)
            for why in ("INVALID_USER_LIST_TYPE", "MULTIPLE_DATA_TYPES_NOT_ALLOWED", "TOO_MANY_USER_IDENTIFIERS")
        ),
        *(
            (INGEST, refusal(400, "INVALID_ARGUMENT", (LIST, why)), GoneError, False, why)
            for why in ("INVALID_DESTINATION", "INVALID_USER_LIST_ID", "NOT_FOUND")
        ),
        (INGEST, refusal(404, "NOT_FOUND", (LIST, "NOT_FOUND")), GoneError, False, "NOT_FOUND"),
        (INGEST, refusal(404, "NOT_FOUND"), RefusedError, False, "NOT_FOUND"),
        (GET, refusal(404, "NOT_FOUND"), GoneError, False, "NOT_FOUND"),
        (Call("GET", LISTS), refusal(404, "NOT_FOUND"), AuthError, False, "NOT_FOUND"),
        (
            Call("GET", "/requestStatus:retrieve"),
            refusal(400, "INVALID_ARGUMENT", ("request_id", "REQUEST_TOO_OLD")),
            RefusedError,
            False,
            "REQUEST_TOO_OLD",
        ),
        (
            Call("POST", LISTS),
            refusal(400, "INVALID_ARGUMENT", ("user_list.display_name", "DISPLAY_NAME_ALREADY_USED")),
            RefusedError,
            False,
            "DISPLAY_NAME_ALREADY_USED",
        ),
        (INGEST, Reply(200, {}, None), UnknownError, True, "200"),
    ],
)
def test_what_a_refusal_means(call: Call, reply: Reply, error: type[DestinationError], retry: bool, code: str) -> None:
    """Class, retry and code of every row of the error table; Google's own words are not repeated."""
    fault = google().fault(call, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.error.code) == (error, retry, code)
    assert "ada@" not in f"{fault.error} {fault.error.hint}"


@pytest.mark.parametrize(
    "reason",
    [
        "INVALID_HEX_ENCODING",
        "INVALID_BASE64_ENCODING",
        "INVALID_SHA256_FORMAT",
        "INVALID_FORMAT",
        "INVALID_MOBILE_ID_FORMAT",
        "INVALID_POSTAL_CODE",
        "INVALID_REGION_CODE",
        "INVALID_AUDIENCE_MEMBER",
        "REQUIRED_FIELD_MISSING",
        "NO_IDENTIFIERS_PROVIDED",
    ],
)
def test_a_value_that_is_refused_names_its_member(reason: str) -> None:
    """By the first number in brackets, whatever stands before it; never where it is one of the destinations."""
    reply = refusal(400, "INVALID_ARGUMENT", (ROW, reason), ("rows[7].x[1]", reason))
    fault = google().fault(INGEST, reply)
    assert fault is not None and isinstance(fault.error, RowsRefusedError)
    assert fault.error.rows == {4: reason, 7: reason}
    mixed = refusal(400, "INVALID_ARGUMENT", (ROW, reason), ("destinations[0]", "REQUIRED_FIELD_MISSING"))
    whole = google().fault(INGEST, mixed)
    assert whole is not None and not isinstance(whole.error, RowsRefusedError)
    placeless = google().fault(INGEST, refusal(400, "INVALID_ARGUMENT", ("audience_members", reason)))
    assert placeless is not None and not isinstance(placeless.error, RowsRefusedError)


def test_throttling_tells_minutes_from_days() -> None:
    """A minute's allowance is waited for, unless Google says for how long; a day's is not."""
    limit = "IngestionMutateRequestsPer{}PerProject"
    minute = refusal(429, "RESOURCE_EXHAUSTED", quota_limit=limit.format("Minute"))
    fault = google().fault(INGEST, minute)
    assert fault is not None and (fault.retry, fault.wait_s) == (True, 60.0)
    told = google().fault(INGEST, Reply(429, {"retry-after": "7"}, minute.json))
    assert told is not None and told.wait_s is None
    day = google().fault(INGEST, refusal(429, "RESOURCE_EXHAUSTED", quota_limit=limit.format("Day")))
    assert day is not None and (day.retry, type(day.error)) == (False, TransientError)


def test_a_refused_login_is_renewed_once_and_google_s_request_is_named() -> None:
    """Its support asks for the request's id."""
    fault = google().fault(INGEST, refusal(401, "UNAUTHENTICATED"))
    assert fault is not None and fault.renew
    assert "(request r-9)" in str(fault.error)


# -- service account ------------------------------------------------------------------------------------------


def key_file(folder: Path) -> tuple[Path, str]:
    """A made-up service account's key, and the public half."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    account = {"type": "service_account", "client_email": "robot@example.com", "private_key_id": "k1"}
    path = folder / "key.json"
    path.write_text(json.dumps({**account, "private_key": private}))
    return path, public.decode()


def test_a_service_account_signs_for_itself(tmp_path: Path) -> None:
    """RS256, for an hour, our scope, the endpoint as audience."""
    import jwt

    path, public = key_file(tmp_path)
    asked: list[tuple[str, dict[str, str]]] = []

    def post(url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Reply:
        asked.append((url, dict(form)))
        return Reply(200, {}, {"access_token": "token-1", "expires_in": 3599})

    auth = ServiceAccount(str(path), "https://oauth2.googleapis.com/token", now=lambda: 1_700_000_000)
    assert auth.ready(post) == auth.ready(post) == 1
    [(url, form)] = asked
    assert (url, form["grant_type"]) == (
        "https://oauth2.googleapis.com/token",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
    )
    options: Any = {"verify_aud": False, "verify_exp": False, "verify_iat": False}
    assert jwt.get_unverified_header(form["assertion"])["kid"] == "k1"
    assert jwt.decode(form["assertion"], public, algorithms=["RS256"], options=options) == {
        "iss": "robot@example.com",
        "scope": "https://www.googleapis.com/auth/datamanager",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1_700_000_000,
        "exp": 1_700_003_600,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("no json", "cannot be read"),
        ("{}", "is no service account's key"),
        ('{"client_email": "robot@example.com", "private_key": "hush-3"}', "private key cannot be read"),
    ],
)
def test_a_key_that_is_none(tmp_path: Path, text: str | None, said: str) -> None:
    """Said with the remedy, and without anything that is in the file."""
    path = tmp_path / "key.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(AuthError) as caught:
        ServiceAccount(str(path), "https://oauth2.googleapis.com/token").ready(lambda *args: Reply(500))
    assert said in caught.value.message and caught.value.hint
    assert "hush" not in caught.value.message


def test_a_key_that_google_refuses(tmp_path: Path) -> None:
    """It is the key that is wrong, no refresh token."""
    path, _ = key_file(tmp_path)
    with pytest.raises(AuthError, match="service account's key was refused"):
        ServiceAccount(str(path), "https://a.example/token").ready(
            lambda *args: Reply(400, {}, {"error": "invalid_grant"})
        )


def test_without_its_libraries_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clear error in place of an ImportError."""
    monkeypatch.setitem(__import__("sys").modules, "jwt", None)
    with pytest.raises(AuthError) as caught:
        ServiceAccount(str(tmp_path / "key.json"), "https://a.example/token").ready(lambda *args: Reply(500))
    assert "dbt-segments[google]" in (caught.value.hint or "")
