"""The Pinterest destination, played with values: calls out, replies in, outcomes out; and its identifiers.

Expectations are typed from Pinterest's API v5 (`customer_lists`, `audiences`, `oauth/token`, read 2026-11) and worked
out with hashlib, not taken from our own output.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from dbt_segments.destinations.auth import Bearer, OAuthRefresh, Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size
from dbt_segments.destinations.pinterest import Pinterest, PinterestSettings
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
MARK = "dbt-segments:state1:shop.vip.pinterest:n0nce"
LISTS = "/ad_accounts/549756359984/customer_lists"
TARGETS = "/ad_accounts/549756359984/audiences"
LIST = Audience("643", "VIP buyers", MARK, "549756359984")
NEW = Audience("", "VIP buyers", MARK, "549756359984")
JANE = "c9a05fd086c1c335f42f180255a199426c7f5c3666de331a030e33fd7169bc39"
USER = "02ee7bdc4ccf5c94808a0118eb531822f13e7e38e3810ab29ebefb2c2feb8e58"
AAID = "f23b554b2a8fb732a8b973733832e70f018da7bc294dfea289735a07d5dd2c9f"
IDFA = "6cd6140c54b2741b81b0099b232a3ddaeed82df456f43563574877baec22b632"
ANSWER = {
    "id": "643",
    "ad_account_id": "549756359984",
    "name": f"VIP buyers [{MARK}]",
    "type": "customerlist",
    "status": "PROCESSING",
    "num_batches": 1,
    "num_uploaded_user_records": 2,
    "num_removed_user_records": 0,
    "created_time": 1452208622,
    "updated_time": 1461269616,
    "exceptions": {},
}


def pinterest(**settings: Any) -> Pinterest:
    return Pinterest(PinterestSettings(**{"ad_account_id": "549756359984", "access_token": "pina_1", **settings}))


def play(flow: Flow[T], *replies: Any) -> tuple[T, list[Call]]:
    """The flow's result and its calls, answered in turn with 200 and the given JSON, or with an error."""
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


def batch(op: Op = Op.ADD, **changes: Any) -> Batch:
    values: dict[str, Any] = {"rows": f'"{JANE}","{USER}"', "count": 2, "number": 1, "last": True, "total": 2}
    return Batch(op=op, id="g1-b1", session=7, fields=("email",), **{**values, **changes})


def page(*items: Any, bookmark: str | None = None) -> dict[str, Any]:
    return {"items": list(items), "bookmark": bookmark}


# -- identifiers ----------------------------------------------------------------------------------------------


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def sent(identifier: str, value: Any, **settings: Any) -> tuple[str | None, str | None]:
    rules = {name: accepts.rule for name, accepts in pinterest(**settings).identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value}], rules)
    assert answer["hashed"] == (answer["sent"] is not None), "nothing goes out in clear"
    return answer["sent"], answer["reason"]


@pytest.mark.parametrize(
    ("identifier", "value", "hashed"),
    [
        ("email", "  Jane.Doe+VIP@Example.COM ", JANE),
        ("email", "USER@Gmail.com", USER),
        ("aaid", "CDDA802E-FB9C-47AD-9866-0794D394C912", AAID),
        ("idfa", "EA7583CD-A667-48BC-B806-42ECB2B48606", IDFA),
        ("maid", "ea7583cd-a667-48bc-b806-42ecb2b48606", IDFA),
        ("email", f" {JANE.upper()}\u00a0", JANE),
        ("maid", AAID.upper(), AAID),
        ("email", "j\u00f6rg@example.com", sha("j\u00f6rg@example.com")),
        ("email", "o'neill@example.com", sha("o'neill@example.com")),
        ("email", "\uff41da@example.com", sha("\uff41da@example.com")),
    ],
)
def test_what_is_sent(identifier: str, value: str, hashed: str) -> None:
    """Trimmed, in lower case, SHA-256; dots and tags stay, ready hashes are not hashed again."""
    assert sent(identifier, value) == (hashed, None)


@pytest.mark.parametrize(
    ("identifier", "value", "reason"),
    [
        ("email", None, "absent"),
        ("email", " \t\u00a0", "absent"),
        ("email", "ada@example.com,bob@example.com", "email_invalid"),
        ("email", "ada@example.com bob@example.com", "email_invalid"),
        ("email", "ada @example.com", "email_invalid"),
        ("email", "Ada <ada@example.com>", "email_invalid"),
        ("email", "d" * 32, "email_invalid"),
        ("email", "d" * 40, "email_invalid"),
        ("email", "d" * 63, "email_invalid"),
        ("email", 12065550142, "email_invalid"),
        ("maid", "00000000-0000-0000-0000-000000000000", "maid_zero"),
        ("idfa", "0" * 32, "maid_zero"),
        ("maid", "cdda802efb9c47ad98660794d394c912", "maid_invalid"),
        ("maid", "\uff11dda802e-fb9c-47ad-9866-0794d394c912", "maid_invalid"),
        ("maid", "ada@example.com", "maid_invalid"),
        ("phone", "+1 (206) 555-0142", "identifier_not_taken"),
        ("external_id", "C-1", "identifier_not_taken"),
        ("first_name", "Ada", "identifier_not_taken"),
    ],
)
def test_what_is_not_sent(identifier: str, value: Any, reason: str) -> None:
    """Left out with a reason, never repaired; a phone number is not taken in this form at all."""
    assert sent(identifier, value) == (None, reason)


def test_the_case_of_an_idfa_is_a_setting() -> None:
    """Not documented by Pinterest; ids of Android, and of no known system, stay in lower case."""
    idfa = "ea7583cd-A667-48BC-B806-42ECB2B48606"
    upper = "70574fa9c8f498a7b2e5c8712b1126de7b1406fd02fdc591821c5bd33092fd1c"
    assert sent("idfa", idfa, idfa_case="upper") == (upper, None)
    assert sent("idfa", idfa) == sent("maid", idfa, idfa_case="upper") == sent("aaid", idfa, idfa_case="upper")
    assert sent("idfa", idfa) == (IDFA, None)
    with pytest.raises(ValidationError):
        pinterest(idfa_case="as issued")


# -- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({}, "https://api.pinterest.com/v5"),
        ({"api_version": "v6"}, "https://api.pinterest.com/v6"),
        ({"base_url": "http://127.0.0.1:8199/pinterest/"}, "http://127.0.0.1:8199/pinterest/v5"),
    ],
)
def test_root(settings: dict[str, Any], root: str) -> None:
    """The version is part of the path."""
    assert pinterest(**settings).root() == root


@pytest.mark.parametrize("given", ["", "act_4", "4/5", "1" * 19, "\u0664\u0662"])
def test_a_wrong_ad_account_is_refused_unseen(given: str) -> None:
    """Up to 18 digits; the message does not repeat what was given."""
    with pytest.raises(ValidationError) as caught:
        pinterest(ad_account_id=given)
    assert not given or given not in str(caught.value)


REFRESH = {"client_id": "15", "client_secret": "s3cret", "refresh_token": "pinr_1"}


@pytest.mark.parametrize("settings", [{"access_token": None}, REFRESH, {"access_token": None, "client_id": "15"}])
def test_one_way_in(settings: dict[str, Any]) -> None:
    """A token, or all that fetches one; neither, both and half are refused."""
    with pytest.raises(
        ValidationError, match="give `access_token`, or `client_id`, `client_secret` and `refresh_token`"
    ):
        pinterest(**settings)


def test_a_fixed_token_is_a_header() -> None:
    """It stands in no URL."""
    auth, outgoing = pinterest().auth(), Outgoing("GET")
    auth.apply(outgoing)
    assert isinstance(auth, Bearer)
    assert (outgoing.headers, outgoing.query) == ({"Authorization": "Bearer pina_1"}, {})


def test_a_token_is_fetched_with_basic_authentication(tmp_path: Path) -> None:
    """The app's id and secret in the header, the refresh token in the form; the token that replaces it is kept."""
    asked: list[Any] = []

    def post(url: str, form: Any, headers: Any) -> Reply:
        asked.append((url, dict(form), dict(headers)))
        number = len(asked) + 1
        return Reply(200, {}, {"access_token": f"pina_{number}", "expires_in": 60, "refresh_token": f"pinr_{number}"})

    settings = {**REFRESH, "access_token": None, "token_file": str(tmp_path / "tokens.json")}
    auth = pinterest(**settings).auth()
    assert isinstance(auth, OAuthRefresh)
    auth.ready(post)
    pinterest(**settings).auth().ready(post)
    form = {"grant_type": "refresh_token", "refresh_token": "pinr_1", "continuous_refresh": "true"}
    basic = {"Authorization": f"Basic {base64.b64encode(b'15:s3cret').decode()}"}
    url = "https://api.pinterest.com/v5/oauth/token"
    assert asked == [(url, form, basic), (url, {**form, "refresh_token": "pinr_2"}, basic)]


@pytest.mark.parametrize(
    ("call", "reply", "error", "retry"),
    [
        (LISTS, Reply(400, {}, {"code": 1, "message": "ada@example.com"}), RefusedError, False),
        (f"{LISTS}/643", Reply(401, {}, {"code": 2}), AuthError, False),
        (LISTS, Reply(403, {}, {"code": 29}), AuthError, False),
        (f"{LISTS}/643", Reply(404, {}, {"code": 2}), GoneError, False),
        (LISTS, Reply(404, {}, {"code": 2}), RefusedError, False),
        (LISTS, Reply(415, {}, None), RefusedError, False),
        (LISTS, Reply(429, {}, {"code": 8}), TransientError, True),
        (LISTS, Reply(408, {}, {"code": 12}), UnknownError, True),
        (LISTS, Reply(500, {}, {"code": 12}), UnknownError, True),
        (LISTS, Reply(503, {}, None), UnknownError, True),
        (LISTS, Reply(200, {}, None), UnknownError, True),
        (LISTS, Reply(200, {}, []), UnknownError, True),
        (LISTS, Reply(204, {}, None, empty=True), UnknownError, True),
    ],
)
def test_faults(call: str, reply: Reply, error: type[DestinationError], retry: bool) -> None:
    """The status decides; the code is shown, the text never."""
    fault = pinterest().fault(Call("POST", call), reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.renew) == (error, retry, reply.status == 401)
    assert "ada@" not in f"{fault.error} {fault.error.hint}"
    if isinstance(reply.json, dict) and reply.status != 200:
        assert fault.error.code == f"{reply.status}/{reply.json['code']}"


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "20"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "20"}, 20),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "86400"}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "soon"}, None),
    ],
)
def test_pace(headers: dict[str, str], wait_s: float | None) -> None:
    """Headers of the rate limit are used where they are there."""
    assert pinterest().pace(Reply(200, headers, {})) == wait_s


# -- lists ----------------------------------------------------------------------------------------------------


def test_a_list_is_made_with_its_first_members() -> None:
    """One text with commas, the mark in the name; what was made is in the outcome. It is not safe to repeat."""
    outcome, (call,) = play(pinterest().push(NEW, batch()), ANSWER)
    assert (call.method, call.path, call.safe) == ("POST", LISTS, False)
    body = {"name": f"VIP buyers [{MARK}]", "list_type": "EMAIL", "records": f"{JANE},{USER}"}
    assert json.loads(str(call.body)) == body
    assert outcome == Outcome(audience=LIST)


@pytest.mark.parametrize("op", [Op.ADD, Op.REMOVE])
def test_members_come_and_go(op: Op) -> None:
    """A PATCH with ADD or REMOVE, safe to repeat."""
    outcome, (call,) = play(pinterest().push(LIST, batch(op)), {**ANSWER, "num_uploaded_user_records": 900})
    assert (call.method, call.path, call.safe) == ("PATCH", f"{LISTS}/643", True)
    assert json.loads(str(call.body)) == {"operation_type": op.name, "records": f"{JANE},{USER}"}
    assert outcome == Outcome()


@pytest.mark.parametrize("answer", [{}, {**ANSWER, "id": "644"}, {**ANSWER, "id": None}])
def test_an_answer_about_another_list_proves_nothing(answer: dict[str, Any]) -> None:
    """Only the list itself says that it took the records."""
    with pytest.raises(UnknownError):
        play(pinterest().push(LIST, batch()), answer)


@pytest.mark.parametrize(
    ("exceptions", "warning"),
    [
        ({}, ()),
        (None, ()),
        ({"invalid_records": 3, "duplicates": 1}, ("duplicates, invalid_records",)),
        ({JANE: "x", "ada@example.com": 1}, ("unnamed",)),
        (["ada@example.com"], ("unnamed",)),
    ],
)
def test_exceptions_of_a_list_are_a_warning(exceptions: Any, warning: tuple[str, ...]) -> None:
    """Their names, where they are words; never a value, and never a failure."""
    outcome, _ = play(pinterest().push(LIST, batch()), {**ANSWER, "exceptions": exceptions})
    assert outcome.warnings == tuple(f"pinterest: the list reports exceptions ({names})" for names in warning)


def test_lists_are_found_by_mark_and_label() -> None:
    """Every page is read; ours, another state's, and somebody's of that label, lowest id first."""
    pages = [
        page(ANSWER, {**ANSWER, "id": "1000", "name": "VIP buyers"}, bookmark="b/2="),
        page(
            {**ANSWER, "id": "7", "name": "VIP buyers [2024] [dbt-segments:other:shop.vip.pinterest:1]"},
            {**ANSWER, "id": "8", "name": "VIP buyers [2024]"},
            {**ANSWER, "id": "9", "name": "VIP buyers [dbt-segments:other:shop.vip.pinterest:1]"},
            {**ANSWER, "id": "10", "name": "dbt-segments:state1:shop.vip.pinterest:n0nce"},
        ),
    ]
    found, calls = play(pinterest().find("dbt-segments:state1:", "VIP buyers"), *pages)
    assert [(one.id, one.name, one.mark) for one in found] == [
        ("9", "VIP buyers", "dbt-segments:other:shop.vip.pinterest:1"),
        ("643", "VIP buyers", MARK),
        ("1000", "VIP buyers", ""),
    ]
    first = {"page_size": "250", "order": "DESCENDING"}
    assert [dict(call.query) for call in calls] == [first, {**first, "bookmark": "b/2="}]
    named, _ = play(pinterest().find(MARK, "Others"), page(ANSWER, "?", None))
    assert [one.id for one in named] == ["643"]
    with pytest.raises(UnknownError):
        play(pinterest().find(MARK, "Others"), {"data": []})


def test_a_list_is_read_back() -> None:
    """Label and mark apart again."""
    assert play(pinterest().get("643"), ANSWER) == (LIST, [Call("GET", f"{LISTS}/643")])


def test_a_list_of_somebody_else_keeps_its_name() -> None:
    """Nothing can be written into it, so taking it over asks nothing."""
    assert play(pinterest().adopt(Audience("8", "Old"), MARK)) == (Audience("8", "Old", MARK), [])


# -- the audience that ads target -----------------------------------------------------------------------------

TARGET = {"id": "2540", "name": "VIP buyers", "rule": {"customer_list_id": "643"}, "status": "READY", "size": 412}


def test_the_audience_of_a_list_is_made_once() -> None:
    """Plain label, mark in the description; where one points to the list already, none is made."""
    missing, (_, call) = play(pinterest().attend(LIST), page({**TARGET, "rule": {"customer_list_id": "6"}}), TARGET)
    assert missing is None
    assert (call.method, call.path, call.safe) == ("POST", TARGETS, False)
    assert json.loads(str(call.body)) == {
        "name": "VIP buyers",
        "audience_type": "CUSTOMER_LIST",
        "rule": {"customer_list_id": "643"},
        "description": MARK,
    }
    missing, calls = play(pinterest().attend(LIST), page({**TARGET, "rule": {}}, bookmark="b"), page(TARGET))
    assert (missing, [call.method for call in calls]) == (None, ["GET", "GET"])
    assert calls[1].query == {"page_size": "250", "ownership_type": "OWNED", "bookmark": "b"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("TOO_SMALL", "fewer than 100 people"),
        ("PROCESSING", "being processed"),
        ("UPLOADING", "being processed"),
        ("READY", "refused (400/1)"),
        (None, "refused (400/1)"),
    ],
)
def test_why_there_is_no_audience_yet(status: str | None, words: str) -> None:
    """The state of the list explains the refusal."""
    refusal = RefusedError("pinterest: the request was refused", code="400/1")
    missing, calls = play(pinterest().attend(LIST), page(), refusal, {**ANSWER, "status": status})
    assert missing is not None
    assert words in missing
    assert calls[-1] == Call("GET", f"{LISTS}/643")


@pytest.mark.parametrize(
    ("target", "size"),
    [
        (TARGET, Size(412, 412, "ready")),
        ({**TARGET, "status": "INITIALIZING", "size": 0}, Size(None, None, "processing")),
        ({**TARGET, "status": "TOO_SMALL", "size": None}, Size(None, None, "too small")),
        ({**TARGET, "size": None}, Size(None, None, "ready")),
        ({**TARGET, "status": "ELIGIBLE"}, Size(None, None, "eligible")),
    ],
)
def test_size(target: dict[str, Any], size: Size) -> None:
    """That of the audience once it is ready; counters of the list say nothing."""
    assert play(pinterest().size(LIST), page(target))[0] == size


def test_size_without_an_audience() -> None:
    """There is nothing to read yet."""
    assert play(pinterest().size(LIST), page())[0] == Size(status="processing")


def test_deleting_takes_away_what_ads_target() -> None:
    """A list cannot be deleted; done where there is no audience, too."""
    ours = {**TARGET, "description": MARK}
    _, (_, call) = play(pinterest().delete(LIST), page(ours), TARGET)
    assert (call.method, call.path, call.body) == ("PATCH", f"{TARGETS}/2540", '{"operation_type":"REMOVE"}')
    assert play(pinterest().delete(LIST), page())[1][0].method == "GET"
    assert len(play(pinterest().delete(LIST), page(ours), GoneError("gone"))[1]) == 2


@pytest.mark.parametrize("known", [LIST, dataclasses.replace(LIST, mark="")])
def test_of_several_audiences_over_a_list_ours_is_meant(known: Audience) -> None:
    """Somebody else's audience over the list stays, wherever it is listed and whether or not ours is there."""
    theirs = {**TARGET, "id": "2541", "description": "lookalike seed", "size": 7}
    for listed in ([theirs, {**TARGET, "description": MARK}], [{**TARGET, "description": MARK}, theirs]):
        _, (_, call) = play(pinterest().delete(known), page(*listed), TARGET)
        assert call.path == f"{TARGETS}/2540"
        assert play(pinterest().size(known), page(*listed))[0] == Size(412, 412, "ready")
    _, calls = play(pinterest().delete(known), page(theirs))
    assert [call.method for call in calls] == ["GET"]


def test_a_page_that_follows_itself_ends_the_listing() -> None:
    """Instead of being read for ever."""
    for flow in (pinterest().find(MARK, "VIP buyers"), pinterest().size(LIST)):
        with pytest.raises(UnknownError, match="follows itself"):
            play(flow, page(bookmark="b"), page(bookmark="b"))


# -- doctor ---------------------------------------------------------------------------------------------------


def test_check() -> None:
    """Two readings that change nothing; whether the token may write is not known beforehand."""
    findings, calls = play(pinterest().check(), page(), page())
    assert [(one.what, one.good) for one in findings] == [
        ("credentials", True),
        ("account", True),
        ("scopes", True),
        ("ads:write", None),
        ("token", None),
    ]
    assert [(call.method, call.path, call.query["page_size"]) for call in calls] == [
        ("GET", LISTS, "1"),
        ("GET", TARGETS, "1"),
    ]


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (AuthError("pinterest: refused", hint="connect again"), [("credentials", False, "connect again")]),
        (RefusedError("pinterest: no such account", hint="check it"), [("account", False, "check it")]),
    ],
)
def test_check_says_what_is_wrong(error: DestinationError, found: list[tuple[str, bool, str]]) -> None:
    """With the remedy, and no more calls."""
    findings, _ = play(pinterest().check(), error)
    assert [(one.what, one.good, one.hint) for one in findings] == found
