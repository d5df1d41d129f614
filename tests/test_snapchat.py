"""Snapchat customer lists: identifiers, flows and errors, played with values.

Expectations are typed from Snap's Marketing API pages ("Customer Lists", "Rate Limits", Conversions "Best Practices"
for hashing, read 2026-11) and from answers that working clients recorded, not from our own output.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size, Support
from dbt_segments.destinations.snapchat import Snapchat, SnapchatSettings
from dbt_segments.errors import AuthError, DestinationError, GoneError, RefusedError, TransientError, UnknownError
from dbt_segments.identifiers.attempt import attempt
from tests.world import sha

MARK = "dbt-segments:s1:shop.vip.snapchat:n0nce"
ACCOUNT = "8adc3db7-8148-4fbf-999c-8d2266369d74"
SEGMENT = Audience("5677923948298240", "CRM - active buyers", MARK, ACCOUNT)
USERS = Call("POST", f"/segments/{SEGMENT.id}/users")
LIST = Call("GET", f"/adaccounts/{ACCOUNT}/segments")


def snap(**settings: Any) -> Snapchat:
    known = {"ad_account_id": ACCOUNT, "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    return Snapchat(SnapchatSettings(**{**known, **settings}))


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


def entry(**changes: Any) -> dict[str, Any]:
    facts = {"id": SEGMENT.id, "name": SEGMENT.name, "description": MARK, "ad_account_id": ACCOUNT}
    return {**facts, "source_type": "FIRST_PARTY", "retention_in_days": 9999} | changes


def segments(*entries: Any, **more: Any) -> dict[str, Any]:
    parts = [{"sub_request_status": "SUCCESS", "segment": one} for one in entries]
    return {"request_status": "SUCCESS", "request_id": "57ae54d8", "segments": parts, **more}


def users(received: Any) -> dict[str, Any]:
    part = {"sub_request_status": "SUCCESS", "user": {"number_uploaded_users": received}}
    return {"request_status": "success", "request_id": "57c4d347", "users": [part]}


def batch(op: Op = Op.ADD, name: str = "email", values: tuple[str, ...] = ("a", "b")) -> Batch:
    rows = ",".join(f'["{sha(value)}"]' for value in values)
    return Batch(op, rows, len(values), 1, True, len(values), "g1-1", 1, fields=(name,))


# -- identifiers ----------------------------------------------------------------------------------------------

IDFA = "6cd6140c54b2741b81b0099b232a3ddaeed82df456f43563574877baec22b632"
AAID = "f23b554b2a8fb732a8b973733832e70f018da7bc294dfea289735a07d5dd2c9f"
JANE = "c9a05fd086c1c335f42f180255a199426c7f5c3666de331a030e33fd7169bc39"
BRITISH = "033134b911b137918338415ee3d20a064b24773d36a3b02e8b99fdd3fcd6b4cd"


@pytest.mark.parametrize(
    ("name", "raw", "country", "sent"),
    [
        ("email", "  Jane.Doe+VIP@Example.COM ", None, JANE),
        ("email", "USER@Gmail.com", None, "02ee7bdc4ccf5c94808a0118eb531822f13e7e38e3810ab29ebefb2c2feb8e58"),
        ("email", "a b@example.com", None, None),
        ("email", "a@example.com;b@example.com", None, None),
        ("email", " ", None, None),
        ("email", IDFA.upper(), None, IDFA),
        ("email", IDFA[:40], None, None),
        ("phone", "+1 (206) 555-0142", None, "15744f8a860ed681abfd2d805ba9a8f6232095ceea9caf013a43647c7f053d83"),
        ("phone", "0044 7700 900123", None, BRITISH),
        ("phone", "+44 (0)7700 900123", None, BRITISH),
        ("phone", "07700 900123", "GB", BRITISH),
        ("phone", "+0044 7700 900123", None, BRITISH),
        ("phone", "\uff0b\uff14\uff14 7700 900123", None, BRITISH),
        ("phone", "+44 7700 900123 ext. 5", None, BRITISH),
        ("phone", "07700 900123", None, None),
        ("phone", "call me", None, None),
        ("phone", "+", None, None),
        ("phone", f" {BRITISH} ", None, BRITISH),
        ("phone", BRITISH[:63], None, None),
        ("maid", "EA7583CD-A667-48BC-B806-42ECB2B48606", None, IDFA),
        ("idfa", "EA7583CD-A667-48BC-B806-42ECB2B48606", None, IDFA),
        ("aaid", "CDDA802E-FB9C-47AD-9866-0794D394C912", None, AAID),
        ("maid", "00000000-0000-0000-0000-000000000000", None, None),
        ("maid", "0" * 32, None, None),
        ("maid", "ea7583cda66748bcb80642ecb2b48606", None, None),
        ("maid", "ZA7583CD-A667-48BC-B806-42ECB2B48606", None, None),
        ("maid", IDFA, None, IDFA),
        ("external_id", "A-17", None, None),
        ("postal_code", "98101", None, None),
    ],
)  # fmt: skip
def test_what_an_identifier_becomes(name: str, raw: str, country: str | None, sent: str | None) -> None:
    """Phones without a plus and without a trunk zero, ids in lower case, everything hashed once."""
    rules = {name: accepts.rule for name, accepts in Snapchat.identifiers.items()}
    (answer,) = attempt([{"identifier": name, "value": raw, "country": country}], rules)
    assert (answer["sent"], answer["hashed"]) == (sent, sent is not None)


# -- the connection -------------------------------------------------------------------------------------------


def test_declarations() -> None:
    """50,000 identifiers a request unless told otherwise, 8 requests a second, one at a time, 1,000 people."""
    assert (snap().limits.members, snap().limits.requests_per_s, snap().limits.concurrency) == (50_000, 8, 1)
    assert snap(batch_size=100_000).limits.members == 100_000
    assert (Snapchat.minimum, Snapchat.longest_name, Snapchat.retention_days) == (1_000, 375, None)
    assert Snapchat.operations[Op.REPLACE] is Support.NOT_YET
    assert snap().root() == "https://adsapi.snapchat.com/v1"
    fields = {name: accepts.field for name, accepts in Snapchat.identifiers.items()}
    mobile = dict.fromkeys(("maid", "idfa", "aaid"), "MOBILE_AD_ID_SHA256")
    assert fields == {"email": "EMAIL_SHA256", "phone": "PHONE_SHA256", **mobile}


def test_the_clients_credentials_stand_in_the_form(tmp_path: Any) -> None:
    """And nowhere else."""
    sent: list[Any] = []

    def post(url: str, form: Any, headers: Any) -> Reply:
        sent.append((url, dict(form), dict(headers)))
        return Reply(200, {}, {"access_token": "t", "expires_in": 3600})

    snap(token_file=str(tmp_path / "tokens.json")).auth().ready(post)
    form = {"grant_type": "refresh_token", "refresh_token": "r", "client_id": "c", "client_secret": "s"}
    assert sent == [("https://accounts.snapchat.com/login/oauth2/access_token", form, {})]


@pytest.mark.parametrize("wrong", [{"ad_account_id": "123"}, {"batch_size": 100_001}, {"client_secret": None}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    """An id that is no UUID, more than Snap takes at once, no secret."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        snap(**wrong)


# -- audiences ------------------------------------------------------------------------------------------------


def test_find_follows_the_pages_as_they_are_linked() -> None:
    """Name or mark decide here; other kinds of segments are left alone; a page that follows itself ends it."""
    link = "https://adsapi.snapchat.com/v1/adaccounts/x/segments?limit=1000&cursor=abc"
    first = segments(entry(id="12", name="Renamed"), entry(id="7", source_type="PIXEL"), paging={"next_link": link})
    second = segments(entry(id="9", description="by hand"), entry(id="8", name="Other", description=""))
    found, calls = play(snap().find("dbt-segments:s1:", SEGMENT.name), first, second)
    assert [(call.path, dict(call.query)) for call in calls] == [(LIST.path, {"limit": "1000"}), (link, {})]
    assert found == [Audience("9", SEGMENT.name, "", ACCOUNT), Audience("12", "Renamed", MARK, ACCOUNT)]
    with pytest.raises(UnknownError):
        play(snap().find(MARK, "x"), first, first)


NEW = {
    "name": SEGMENT.name,
    "description": MARK,
    "source_type": "FIRST_PARTY",
    "retention_in_days": 9999,
    "ad_account_id": ACCOUNT,
}


def test_what_a_listing_holds_besides_segments_is_left_out() -> None:
    """Whatever shape it has."""
    odd = {**segments(entry()), "paging": []}
    odd["segments"] += ["?", {"sub_request_status": "SUCCESS", "segment": None}]
    assert play(snap().find(MARK, "others"), odd)[0] == [SEGMENT]


def test_create() -> None:
    """Names are not unique, so a creation is never repeated blindly; the id is text."""
    made, calls = play(snap().create(SEGMENT.name, MARK), segments(entry()))
    assert made == SEGMENT
    assert [(call.method, call.path, call.safe) for call in calls] == [("POST", LIST.path, False)]
    assert body(calls[0]) == {"segments": [NEW]}
    for answer in (segments(), segments(entry(id=5)), {"request_status": "SUCCESS"}):
        with pytest.raises(UnknownError):
            play(snap().create(SEGMENT.name, MARK), answer)


def test_get() -> None:
    """By id."""
    found, [call] = play(snap().get(SEGMENT.id), segments(entry()))
    assert (found, call.method, call.path) == (SEGMENT, "GET", f"/segments/{SEGMENT.id}")


def test_a_segment_of_another_kind_is_refused() -> None:
    """Taking it over would write into it, and it takes no uploads."""
    with pytest.raises(RefusedError) as caught:
        play(snap().get(SEGMENT.id), segments(entry(source_type="LOOKALIKE")))
    assert caught.value.code == "source_type"


@pytest.mark.parametrize(
    ("there", "written"),
    [
        ({"description": "orders > 5"}, f"orders > 5 {MARK}"),
        ({"description": None}, MARK),
        ({"retention_in_days": 180}, MARK),
        ({}, None),
    ],
)
def test_adopt(there: dict[str, Any], written: str | None) -> None:
    """Words stay, and so do members; the id stands in the object, at the account's segments."""
    answers = [segments(entry(**there)), *([segments(entry())] if written else [])]
    adopted, calls = play(snap().adopt(Audience(SEGMENT.id, SEGMENT.name), MARK), *answers)
    assert adopted.mark == MARK
    wanted = [{"segments": [{"id": SEGMENT.id, **NEW, "description": written}]}] if written else []
    assert [body(call) for call in calls[1:]] == wanted
    assert all((call.method, call.path) == ("PUT", LIST.path) for call in calls[1:])


@pytest.mark.parametrize(
    ("there", "size"),
    [
        ({"upload_status": "NO_UPLOAD"}, Size(status="nothing uploaded")),
        ({"upload_status": "PROCESSING", "approximate_number_users": 12}, Size(status="processing")),
        ({"upload_status": "PENDING"}, Size(status="processing")),
        ({}, Size(status="processing")),
        (
            {"upload_status": "COMPLETE", "targetable_status": "TOO_FEW_USERS", "approximate_number_users": 12},
            Size(12, 12, "too few people"),
        ),
        (
            {"upload_status": "COMPLETE", "targetable_status": "READY", "approximate_number_users": 1200},
            Size(1200, 1200, "ready"),
        ),
    ],
)
def test_size(there: dict[str, Any], size: Size) -> None:
    """A number counts once everything is matched; an unknown state is still processing."""
    assert play(snap().size(SEGMENT), segments(entry(**there)))[0] == size


def test_delete() -> None:
    """Without a body; done where it is gone already."""
    _, [call] = play(snap().delete(SEGMENT), segments(entry()))
    assert (call.method, call.path, call.body) == ("DELETE", f"/segments/{SEGMENT.id}", None)
    play(snap().delete(SEGMENT), GoneError("gone"))


def test_check() -> None:
    """Credentials, the account, and how many of its 1,000 audiences are left."""
    good, _ = play(snap().check(), segments(entry()))
    assert [(one.what, one.good) for one in good] == [("credentials", True), ("account", True), ("audiences", True)]
    full, _ = play(snap().check(), segments(*(entry(id=str(n)) for n in range(1_000))))
    assert full[-1].good is False
    for code, what in (("E3002", "account"), ("401", "credentials")):
        found, _ = play(snap().check(), AuthError("no", code=code))
        assert [(one.what, one.good) for one in found] == [(what, False)]


# -- members --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "method"), [(Op.ADD, "POST"), (Op.REMOVE, "DELETE")])
@pytest.mark.parametrize(
    ("name", "schema"), [("email", "EMAIL_SHA256"), ("phone", "PHONE_SHA256"), ("maid", "MOBILE_AD_ID_SHA256")]
)
def test_one_kind_a_request(op: Op, method: str, name: str, schema: str) -> None:
    """Rows are arrays of one; a removal is a DELETE with a body; what two members share goes once."""
    outcome, [call] = play(snap().push(SEGMENT, batch(op, name, ("a", "b", "a"))), users(2))
    assert (outcome, call.method, call.path) == (Outcome(), method, USERS.path)
    assert body(call) == {"users": [{"schema": [schema], "data": [[sha("a")], [sha("b")]]}]}


@pytest.mark.parametrize(
    "answer", [users(1), {"request_status": "SUCCESS"}, {"request_status": "SUCCESS", "users": []}]
)
def test_counts_that_do_not_add_up_prove_nothing(answer: Any) -> None:
    """Fewer received than sent, or no part that answers for them."""
    with pytest.raises(UnknownError):
        play(snap().push(SEGMENT, batch()), answer)


# -- faults ---------------------------------------------------------------------------------------------------


def refusal(status: int, code: str | None = None, said: str = "no", **more: Any) -> Reply:
    text = f"{said} for ada@example.com"
    envelope = {"request_status": "ERROR", "request_id": "98e2a602", "debug_message": text, **more}
    return Reply(status, {}, {**envelope, **({"error_code": code} if code else {})})


def part(status: str, **more: Any) -> Reply:
    return Reply(200, {}, {"request_status": "SUCCESS", "users": [{"sub_request_status": status, **more}]})


@pytest.mark.parametrize(
    ("call", "reply", "error", "retry", "renew"),
    [
        (USERS, Reply(401), AuthError, False, True),
        (USERS, refusal(401), AuthError, False, True),
        (USERS, refusal(403, "E3002"), AuthError, False, False),
        (USERS, Reply(403), AuthError, False, False),
        (USERS, refusal(404, "E3003"), GoneError, False, False),
        (USERS, refusal(404), GoneError, False, False),
        (LIST, refusal(404, "E3003"), AuthError, False, False),
        (USERS, Reply(404), RefusedError, False, False),
        *((USERS, Reply(status), RefusedError, False, False) for status in (400, 405, 406, 410)),
        (USERS, Reply(429), TransientError, True, False),
        *((USERS, Reply(status), UnknownError, True, False) for status in (500, 503, 504)),
        # 200 that is none
        (USERS, refusal(200), RefusedError, False, False),
        (USERS, refusal(200, "E3002"), AuthError, False, False),
        (USERS, refusal(200, "E3003"), GoneError, False, False),
        (USERS, refusal(200, said="Rate limit exceeded"), UnknownError, True, False),
        (USERS, refusal(200, said="Internal error, please try again"), UnknownError, True, False),
        (USERS, part("ERROR"), RefusedError, False, False),
        (USERS, part("ERROR", sub_request_error_reason="Request timed out"), UnknownError, True, False),
        (USERS, part("ERROR", error_code="E3002"), AuthError, False, False),
        # 200 that proves nothing
        (USERS, Reply(200, {}, {}), UnknownError, True, False),
        (USERS, Reply(200), UnknownError, True, False),
        (USERS, Reply(200, {}, {"success": True}), UnknownError, True, False),
    ],
)
def test_faults(call: Call, reply: Reply, error: type[DestinationError], retry: bool, renew: bool) -> None:
    """The status, the word of the answer, and that of each part; nothing of the vendor's text is repeated."""
    fault = snap().fault(call, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.renew) == (error, retry, renew)
    assert "ada@example.com" not in f"{fault.error} {fault.error.hint} {fault.error.code}"


@pytest.mark.parametrize("word", ["success", "SUCCESS", "Success"])
def test_success_in_any_case(word: str) -> None:
    """Snap's own samples write it in two ways."""
    reply = {"request_status": word, "users": [{"sub_request_status": word, "user": {}}]}
    assert snap().fault(USERS, Reply(200, {}, reply)) is None


def test_the_request_id_ends_the_message() -> None:
    """It is what Snap's support asks for."""
    fault = snap().fault(USERS, refusal(400))
    assert fault is not None
    assert fault.error.message == "snapchat: refused with 400 (request_id 98e2a602)"
