"""Microsoft Advertising customer lists: identifiers, flows and errors, played with values.

Expectations are typed from the Campaign Management v13 pages ("CustomerList", "ApplyCustomerListUserData", "Operation
error codes", read 2026-11), not from our own output.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from dbt_segments.destinations import _microsoft_ads_faults as faults
from dbt_segments.destinations.auth import Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size, Support
from dbt_segments.destinations.microsoft_ads import MicrosoftAds, MicrosoftAdsSettings
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError
from dbt_segments.identifiers.attempt import attempt
from tests.projects import REPOSITORY
from tests.world import sha

MARK = "dbt-segments:s1:shop.vip.microsoft_ads:n0nce"
LIST = Audience("8000123456", "VIP buyers", MARK, "1001")
APPLY = Call("POST", "/CustomerListUserData/Apply")
QUERY = Call("POST", "/Audiences/QueryByIds")
CREATE = Call("POST", "/Audiences")
SETTINGS = {
    "account_id": "2001",
    "customer_id": "1001",
    "developer_token": "DEVT0KEN",
    "client_id": "client",
    "refresh_token": "refresh-1",
    "customer_match_terms": "accepted",
}


def ads(**settings: Any) -> MicrosoftAds:
    return MicrosoftAds(MicrosoftAdsSettings(**{**SETTINGS, **settings}))


def play(flow: Flow[Any], *answers: Any) -> tuple[Any, list[Call]]:
    """The flow's result and its calls, answered in turn: JSON with 200, or an error that is thrown."""
    calls, left = [], iter(answers)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            answer = next(left)
            throws = isinstance(answer, DestinationError)
            call = flow.throw(answer) if throws else flow.send(Reply(200, {}, answer))
    except StopIteration as end:
        assert next(left, None) is None, "more answers than calls"
        return end.value, calls


def body(call: Call) -> Any:
    assert isinstance(call.body, str)
    return json.loads(call.body)


def batch(op: Op = Op.ADD, count: int = 2) -> Batch:
    rows = ",".join(json.dumps(sha(f"{number}@example.com")) for number in range(count))
    return Batch(op, rows, count, 1, True, count, "g1-1", 1, fields=("email",))


def partial(code: Any, index: Any = 0, name: Any = None) -> dict[str, Any]:
    return {"Code": code, "ErrorCode": name, "Message": "for ada@example.com", "Index": index, "Type": "BatchError"}


def entry(**changes: Any) -> dict[str, Any]:
    facts = {"Type": "CustomerList", "Id": LIST.id, "Name": LIST.name, "Description": MARK, "MembershipDuration": 390}
    return {**facts, "Scope": "Customer", "ParentId": "1001", "SearchSize": None, "AudienceNetworkSize": None} | changes


def lists(*entries: Any) -> dict[str, Any]:
    return {"Audiences": list(entries), "PartialErrors": []}


# -- identifiers ----------------------------------------------------------------------------------------------

DIGEST = "f25ad364d33972379a7a4f4df33db142205f5c40eb19cfdb2fc5aaf117e10101"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        (" Test@Contoso.com ", DIGEST),
        ("Jane.Doe+news@Gmail.com", "f41439c944a763c9812d700a779941cec169de13c9ccd13aaf9424ba5231620a"),
        ("MARY@example.com", "f1904cf1a9d73a55fa5de0ac823c4403ded71afd4c3248d00bdcd0866552bb79"),
        (f" {DIGEST.upper()}\t", DIGEST),
        ("\u00a0test@contoso.com\n", DIGEST),
        ("J\u00d6RG@m\u00fcnchen.example", sha("j\u00f6rg@m\u00fcnchen.example")),
        (DIGEST[:63], None),
        (DIGEST[:40], None),
        (DIGEST[:32], None),
        ("te st@contoso.com", None),
        ("a@example.com, b@example.com", None),
        ("Ada <a@example.com>", None),
        ("a@example.com.", None),
        ("  ", None),
        ("", None),
        (None, None),
        (17, None),
    ],
)
def test_what_an_email_becomes(raw: Any, sent: str | None) -> None:
    """White space and case only; dots and tags stay; a hash stays; what is no address is not sent."""
    rules = {name: accepts.rule for name, accepts in MicrosoftAds.identifiers.items()}
    (answer,) = attempt([{"identifier": "email", "value": raw}], rules)
    assert (answer["sent"], answer["hashed"]) == (sent, sent is not None)


@pytest.mark.parametrize("name", ["phone", "maid", "crm_id", "first_name", "external_id"])
def test_nothing_else_is_taken(name: str) -> None:
    """Phone and CRM id are in the API's lists of words and not supported."""
    rules = {name: accepts.rule for name, accepts in MicrosoftAds.identifiers.items()}
    (answer,) = attempt([{"identifier": name, "value": "12015550101"}], rules)
    assert (answer["sent"], answer["reason"]) == (None, "identifier_not_taken")


# -- the connection -------------------------------------------------------------------------------------------


def test_declarations() -> None:
    """1,000 items a call, members for 390 days, 300 people to serve, names of 128, no replace."""
    assert (MicrosoftAds.limits.members, MicrosoftAds.retention_days, MicrosoftAds.minimum) == (1_000, 390, 300)
    assert (MicrosoftAds.longest_name, MicrosoftAds.operations[Op.REPLACE]) == (128, Support.NOT_YET)
    assert ads().root() == "https://campaign.api.bingads.microsoft.com/CampaignManagement/v13"
    assert ads(base_url="http://127.0.0.1:1/x/", api_version="v14").root() == "http://127.0.0.1:1/x/v14"


def test_terms_hold_until_they_are_accepted() -> None:
    """Nothing is uploaded before the user has agreed; the remedy is named."""
    assert ads().held() is None
    held = ads(customer_match_terms=None).held()
    assert held is not None
    assert "customer_match_terms: accepted" in held


def test_headers_and_the_form_of_a_token(tmp_path: Any) -> None:
    """Scope in the form, a public client without a secret, a new refresh token is used next; four headers a call."""
    forms: list[Any] = []

    def post(url: str, form: Any, headers: Any) -> Reply:
        forms.append((url, dict(form)))
        return Reply(200, {}, {"access_token": f"t{len(forms)}", "expires_in": 3600, "refresh_token": "refresh-2"})

    file = str(tmp_path / "tokens.json")
    for number in (1, 2):
        auth = ads(token_file=file).auth()
        auth.ready(post)
        outgoing = Outgoing("POST")
        auth.apply(outgoing)
        assert outgoing.headers == {
            "Authorization": f"Bearer t{number}",
            "DeveloperToken": "DEVT0KEN",
            "CustomerId": "1001",
            "CustomerAccountId": "2001",
        }
    assert {url for url, _ in forms} == {"https://login.microsoftonline.com/common/oauth2/v2.0/token"}
    first = {"grant_type": "refresh_token", "refresh_token": "refresh-1", "client_id": "client"}
    scope = {"scope": "https://ads.microsoft.com/msads.manage offline_access"}
    assert [form for _, form in forms] == [first | scope, first | scope | {"refresh_token": "refresh-2"}]
    ads(token_file=file, client_secret="s").auth().ready(post)
    assert forms[-1][1]["client_secret"] == "s"


def test_the_days_of_a_token_are_not_lost(tmp_path: Any) -> None:
    """Nothing is documented; should the token endpoint say how long the refresh token lasts, `doctor` knows."""
    auth = ads(token_file=str(tmp_path / "tokens.json")).auth()
    assert auth.left_s() is None
    auth.ready(lambda *asked: Reply(200, {}, {"access_token": "t", "refresh_token_expires_in": 864_000}))
    assert round((auth.left_s() or 0) / 86_400) == 10


@pytest.mark.parametrize("wrong", [{"account_id": "X1234567"}, {"customer_id": ""}, {"developer_token": "a\nb"}])
def test_wrong_settings_are_refused_unseen(wrong: dict[str, str]) -> None:
    """The account number is not the account's id; a token that no header can carry; the value is not repeated."""
    with pytest.raises(ValidationError) as caught:
        ads(**wrong)
    (key, value) = next(iter(wrong.items()))
    assert key in str(caught.value)
    assert not value or value not in str(caught.value)


# -- lists ----------------------------------------------------------------------------------------------------


def test_find() -> None:
    """Every list is asked for; the mark or the name decides here, lowest id first."""
    page = lists(entry(), entry(Id="77", Description="by hand"), entry(Id="78", Name="Other", Description=None), None)
    found, [call] = play(ads().find("dbt-segments:s1:", "VIP buyers"), page)
    assert (call.method, call.path) == ("POST", "/Audiences/QueryByIds")
    assert body(call) == {"AudienceIds": None, "Type": "CustomerList", "ReturnAdditionalFields": None}
    assert found == [Audience("77", "VIP buyers", "", "1001"), LIST]
    assert play(ads().find(MARK, "x"), {"Audiences": None})[0] == []


def test_get() -> None:
    """By id, which is text; an answer without the list and without an error proves nothing."""
    found, [call] = play(ads().get(LIST.id), lists(entry()))
    assert (found, body(call)["AudienceIds"]) == (LIST, [LIST.id])
    with pytest.raises(UnknownError):
        play(ads().get(LIST.id), lists(None))


NEW = {
    "Type": "CustomerList",
    "Name": "VIP buyers",
    "Description": MARK,
    "MembershipDuration": 390,
    "Scope": "Customer",
    "ParentId": "1001",
}


def test_create() -> None:
    """The duration is always said, the parent is the customer, the mark stands in the description."""
    made, [call] = play(ads().create("VIP buyers", MARK), {"AudienceIds": [LIST.id], "PartialErrors": []})
    assert (made, call.method, call.path, body(call)) == (LIST, "POST", "/Audiences", {"Audiences": [NEW]})


@pytest.mark.parametrize("answer", [{"AudienceIds": [None]}, {"AudienceIds": []}, {}])
def test_a_creation_without_list_or_error_is_looked_for_then_repeated(answer: Any) -> None:
    """Null without an error is no success: the list is there, or a second try makes it, or nobody knows."""
    assert play(ads().create("VIP buyers", MARK), answer, lists(entry()))[0] == LIST
    made, calls = play(ads().create("VIP buyers", MARK), answer, lists(), {"AudienceIds": [LIST.id]})
    assert (made, [call.path for call in calls]) == (LIST, ["/Audiences", "/Audiences/QueryByIds", "/Audiences"])
    with pytest.raises(UnknownError):
        play(ads().create("VIP buyers", MARK), answer, lists(), answer, lists())


def test_a_taken_name_is_ours_by_its_mark_only() -> None:
    """4853 after a lost answer finds what the first try made; somebody else's list is never used."""
    taken = RefusedError("taken", code="4853")
    assert play(ads().create("VIP buyers", MARK), taken, lists(entry()))[0] == LIST
    with pytest.raises(RefusedError, match="VIP buyers") as caught:
        play(ads().create("VIP buyers", MARK), taken, lists(entry(Description="by hand")))
    assert "audience_name" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("there", "written"),
    [
        ({"Description": "orders > 5"}, {"Description": f"orders > 5 {MARK}", "MembershipDuration": 390}),
        ({"Description": None, "MembershipDuration": 30}, {"Description": MARK, "MembershipDuration": 390}),
        ({"Description": "a", "MembershipDuration": -1}, {"Description": f"a {MARK}", "MembershipDuration": -1}),
        ({"Description": f"a {MARK}"}, None),
        ({"Description": "x" * 1000}, None),
    ],
)
def test_adopt(there: dict[str, Any], written: dict[str, Any] | None) -> None:
    """Words stay, members stay for 390 days; a description without room is left as it is."""
    answers = [lists(entry(**there)), *([{"PartialErrors": []}] if written else [])]
    adopted, calls = play(ads().adopt(Audience(LIST.id, LIST.name), MARK), *answers)
    assert adopted.mark == ("" if there["Description"] == "x" * 1000 else MARK)
    fields = {"Type": "CustomerList", "Id": LIST.id, "Name": LIST.name}
    assert [body(call) for call in calls[1:]] == ([{"Audiences": [fields | written]}] if written else [])


def test_a_list_that_cannot_be_changed() -> None:
    """It is used without our mark; where it forgets members earlier, it is refused with the remedy."""
    fixed = RefusedError("no", code="100")
    plain = Audience(LIST.id, LIST.name)
    assert play(ads().adopt(plain, MARK), lists(entry(Description="a")), fixed)[0] == plain
    with pytest.raises(RefusedError, match="30 days"):
        play(ads().adopt(plain, MARK), lists(entry(Description="a", MembershipDuration=30)), fixed)


@pytest.mark.parametrize(
    ("there", "size"),
    [
        ({}, Size(status="processing")),
        ({"SearchSize": "1200"}, Size(1200, 1200, "ready")),
        ({"SearchSize": "1200", "AudienceNetworkSize": "900"}, Size(900, 1200, "ready")),
        ({"SearchSize": "0", "AudienceNetworkSize": "120"}, Size(0, 120, "too small to serve")),
    ],
)
def test_size(there: dict[str, Any], size: Size) -> None:
    """Two sizes as text, both null for up to 48 hours; 300 people are needed."""
    assert play(ads().size(LIST), lists(entry(**there)))[0] == size


def test_delete() -> None:
    """A DELETE with a body; done where the list is gone already."""
    _, [call] = play(ads().delete(LIST), {"PartialErrors": []})
    assert (call.method, call.path, body(call)) == ("DELETE", "/Audiences", {"AudienceIds": [LIST.id]})
    play(ads().delete(LIST), GoneError("gone"))


def test_check() -> None:
    """What the platform says, and that it does not say whether the terms are accepted."""
    findings, _ = play(ads().check(), lists(entry()))
    said = {one.what: one.good for one in findings}
    assert said == {"credentials": True, "account": True, "terms": None, "token": None}
    refused, _ = play(ads(customer_match_terms=None).check(), AuthError("no", code="106", hint="a role"))
    assert {one.what: one.good for one in refused} == {"account": False, "terms": False, "token": None}
    assert next(one.hint for one in refused if one.what == "account") == "a role"


# -- members --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "action"), [(Op.ADD, "Add"), (Op.REMOVE, "Remove")])
def test_members_travel_as_hashes(op: Op, action: str) -> None:
    """One audience and one action a call, ids are text, and the terms are said to be accepted."""
    outcome, [call] = play(ads().push(LIST, batch(op)), {"PartialErrors": None})
    data = {
        "AudienceId": LIST.id,
        "ActionType": action,
        "CustomerListItemSubType": "Email",
        "AcceptCustomerMatchTerm": True,
        "CustomerListItems": [sha("0@example.com"), sha("1@example.com")],
    }
    assert (outcome, call.method, call.path) == (Outcome(), "POST", "/CustomerListUserData/Apply")
    assert body(call) == {"CustomerListUserData": data}


def test_terms_are_not_accepted_in_anybodys_name() -> None:
    """Without the user's word the field is left out."""
    _, [call] = play(ads(customer_match_terms=None).push(LIST, batch(Op.REMOVE)), {})
    assert "AcceptCustomerMatchTerm" not in body(call)["CustomerListUserData"]


def test_rows_are_refused_by_index() -> None:
    """8004 is about its row; an index outside the batch concerns any of them."""
    outcome, _ = play(ads().push(LIST, batch(count=3)), {"PartialErrors": [partial(8004, 2), partial("8004", 0)]})
    assert outcome == Outcome(refused={2: "8004", 0: "8004"})
    for index in (3, -1, None):
        with pytest.raises(UnknownError):
            play(ads().push(LIST, batch(count=3)), {"PartialErrors": [partial(8004, index)]})


# -- faults ---------------------------------------------------------------------------------------------------


def refusal(code: Any, name: Any = None, *, status: int = 400, place: str = "OperationErrors") -> Reply:
    """A refused call; what it says holds an identifier, which no error may repeat."""
    one = {"Code": code, "ErrorCode": name, "Message": "for ada@example.com"}
    return Reply(status, {}, {"TrackingId": "5a9d0c1e-0000", "Type": "ApiFaultDetail", place: [one]})


def partly(*codes: int) -> Reply:
    return Reply(200, {}, {"PartialErrors": [partial(code) for code in codes]})


@pytest.mark.parametrize(
    ("reply", "error", "retry", "wait_s", "renew"),
    [
        (refusal(0), UnknownError, True, None, False),
        (refusal(117), TransientError, True, 60, False),
        (refusal(117, status=500), TransientError, True, 60, False),
        (refusal(4204), TransientError, False, None, False),
        (refusal(109, place="Errors"), AuthError, False, None, True),
        (refusal(109, place="Errors", status=500), AuthError, False, None, True),
        (refusal("109", place="BatchErrors"), AuthError, False, None, True),
        (refusal(None, "AuthenticationTokenExpired"), AuthError, False, None, True),
        (refusal("AuthenticationTokenExpired"), AuthError, False, None, True),
        (refusal(105), AuthError, False, None, True),
        (refusal(106), AuthError, False, None, False),
        (refusal(1102), AuthError, False, None, False),
        (refusal(100), RefusedError, False, None, False),
        *((partly(code), RefusedError, False, None, False) for code in (4842, 4852, 4853, 8001, 8002, 8119)),
        (partly(4835), GoneError, False, None, False),
        (partly(8000), GoneError, False, None, False),
        (partly(8003), AuthError, False, None, False),
        # 109 anywhere, then final, then passing, then unknown, then rows
        (partly(8004, 8003, 109), AuthError, False, None, True),
        (partly(0, 8004, 8000), GoneError, False, None, False),
        (partly(8004, 0), UnknownError, True, None, False),
        (partly(8004, 9999), UnknownError, False, None, False),
        # not documented: by the status; an upload that was answered with 200 may have been applied in part
        (refusal(9999), RefusedError, False, None, False),
        (refusal(9999, status=429), TransientError, True, None, False),
        (refusal(9999, status=503), UnknownError, True, None, False),
        (refusal(8004), RefusedError, False, None, False),
        # without any code
        (Reply(200), UnknownError, True, None, False),
        (Reply(429), TransientError, True, None, False),
        (Reply(401), AuthError, False, None, True),
        (Reply(403), AuthError, False, None, False),
        (Reply(404), RefusedError, False, None, False),
        (Reply(502), UnknownError, True, None, False),
    ],
)
def test_faults(reply: Reply, error: type[DestinationError], retry: bool, wait_s: float | None, renew: bool) -> None:
    """Codes before the status, from wherever they stand; nothing of the vendor's text is repeated."""
    fault = ads().fault(APPLY, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.wait_s, fault.renew) == (error, retry, wait_s, renew)
    assert "ada@example.com" not in f"{fault.error} {fault.error.hint} {fault.error.code}"


def test_more_about_faults() -> None:
    """Success, rows, a header that is not documented, rows that took the call with them, the id for support."""
    assert ads().fault(APPLY, Reply(200, {}, {"PartialErrors": None})) is None
    assert ads().fault(APPLY, partly(8004)) is None
    other = ads().fault(CREATE, partly(9999))
    assert other is not None
    assert isinstance(other.error, RefusedError)
    asked = ads().fault(APPLY, Reply(429, {"retry-after": "7"}, refusal(117).json))
    assert asked is not None
    assert asked.wait_s is None
    rows = ads().fault(APPLY, refusal(8004))
    assert rows is not None
    assert isinstance(rows.error, RefusedError)
    assert (rows.error.divisible, rows.error.code) == (True, "8004")
    final = ads().fault(QUERY, refusal(106))
    assert final is not None
    assert "TrackingId 5a9d0c1e-0000" in final.error.message


def test_every_known_code_is_documented() -> None:
    """The codes that the classifier knows stand in the page's table of errors."""
    page = (REPOSITORY / "docs/reference/destinations/microsoft_ads.md").read_text(encoding="utf-8")
    table = page.partition("## Errors")[2].partition("## What is unsure")[0]
    known = {*faults._AUTH, *faults._GONE, *faults._REFUSED, *faults._PASSING, *faults._ROWS}
    assert {code for code in known if not re.search(rf"\b{code}\b", table)} == set()
