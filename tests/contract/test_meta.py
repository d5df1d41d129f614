"""The Meta destination, played with values: calls out, replies in, outcomes out.

Expectations are typed from Meta's Marketing API v26.0 ("Custom Audience", "Users", "Usersreplace", "Error reference",
"Rate limiting", read 2026-11), not from our own output.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from dbt_segments.destinations.auth import Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Row, Size
from dbt_segments.destinations.meta import Meta, MetaSettings
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)

T = TypeVar("T")
MARK = "dbt-segments:state1:shop.vip.meta:n0nce"
AUDIENCE = Audience("120210000000000001", "VIP buyers", MARK, "act_42")
USERS = Call("POST", f"/{AUDIENCE.id}/users")
GET = Call("GET", f"/{AUDIENCE.id}")


def meta(**settings: Any) -> Meta:
    return Meta(MetaSettings(ad_account_id="42", access_token="token-1", **settings))


def play(flow: Flow[T], *replies: Any) -> tuple[T, list[Call]]:
    """The flow's result and the calls it made, answered in turn with 200 and the given JSON."""
    calls, answers = [], iter(replies)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            call = flow.send(Reply(200, {}, next(answers)))
    except StopIteration as end:
        assert next(answers, None) is None, "more replies than calls"
        return end.value, calls


def refusal(code: int, sub: int | None = None, *, status: int = 400, **more: Any) -> Reply:
    """Meta's error envelope."""
    error = {"message": "for ada@example.com", "type": "OAuthException", "code": code, "fbtrace_id": "A1b2", **more}
    if sub is not None:
        error["error_subcode"] = sub
    return Reply(status, {}, {"error": error})


def batch(op: Op = Op.ADD, **changes: Any) -> Batch:
    values: dict[str, Any] = {
        "op": op,
        "rows": '["aa","cust-0042"],["","A-17"]',
        "count": 2,
        "number": 1,
        "last": True,
        "total": 2,
        "id": "g1-b1",
        "session": 9778993,
        "fields": ("email", "external_id"),
    }
    return Batch(**{**values, **changes})


RECEIVED = {
    "audience_id": AUDIENCE.id,
    "session_id": "9778993",
    "num_received": 2,
    "num_invalid_entries": 0,
    "invalid_entry_samples": {},
}

# -- declarations ---------------------------------------------------------------------------------------------


def test_fields_are_those_of_the_reference() -> None:
    """Multi-key schema names; only MADID and EXTERN_ID travel in clear."""
    fields = {name: accepts.field for name, accepts in Meta.identifiers.items()}
    assert fields == {
        "email": "EMAIL",
        "phone": "PHONE",
        "maid": "MADID",
        "idfa": "MADID",
        "aaid": "MADID",
        "external_id": "EXTERN_ID",
        "first_name": "FN",
        "last_name": "LN",
        "fi": "FI",
        "gender": "GEN",
        "doby": "DOBY",
        "dobm": "DOBM",
        "dobd": "DOBD",
        "city": "CT",
        "region": "ST",
        "postal_code": "ZIP",
        "country": "COUNTRY",
    }
    assert {accepts.field for accepts in Meta.identifiers.values() if not accepts.rule.hashed} == {"MADID", "EXTERN_ID"}


def test_declarations() -> None:
    """10,000 rows a request, 90 minutes a replace, external ids forgotten after 90 days, four fields alone."""
    assert (Meta.limits.members, Meta.session_s, Meta.row) == (10_000, 5400, Row.POSITIONAL)
    assert Meta.forgets_after_days == {"external_id": 90}
    assert {Meta.identifiers[name].field for (name,) in Meta.units} == {"EMAIL", "PHONE", "MADID", "EXTERN_ID"}


@pytest.mark.parametrize("given", ["42", "act_42", " act_42 ", 42])
def test_ad_account_id_with_or_without_prefix(given: Any) -> None:
    """Both spellings, and a number, mean the same account."""
    settings = MetaSettings(ad_account_id=given, access_token="token-1")
    assert Meta(settings).account() == "act_42"


@pytest.mark.parametrize("given", ["", "act_x4", "act_4x", "42/../me", "\u0664\u0662"])
def test_a_wrong_ad_account_id_is_refused_unseen(given: str) -> None:
    """Anything but digits is refused, and the message does not repeat it."""
    with pytest.raises(ValidationError) as caught:
        MetaSettings(ad_account_id=given, access_token="token-1")
    assert "ad_account_id" in str(caught.value)
    assert not given or given not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({}, "https://graph.facebook.com/v26.0"),
        ({"api_version": "v25.0"}, "https://graph.facebook.com/v25.0"),
        ({"base_url": "http://127.0.0.1:8199/"}, "http://127.0.0.1:8199/v26.0"),
    ],
)
def test_root(settings: dict[str, str], root: str) -> None:
    """The version is the first path segment; v26.0 is pinned."""
    assert meta(**settings).root() == root


@pytest.mark.parametrize(("form", "place"), [({"name": "VIP"}, "form"), (None, "query")])
def test_appsecret_proof(form: dict[str, str] | None, place: str) -> None:
    """HMAC-SHA256 of the token under the app's secret, in the form; in the query only where a call has no form."""
    outgoing = Outgoing("POST", form=form)
    meta(app_secret="app-secret").auth().apply(outgoing)
    proof = hmac.new(b"app-secret", b"token-1", hashlib.sha256).hexdigest()
    assert (getattr(outgoing, place) or {})["appsecret_proof"] == proof
    assert outgoing.headers == {"Authorization": "Bearer token-1"}


def test_without_an_app_secret_there_is_no_proof() -> None:
    """The token alone, in the header."""
    outgoing = Outgoing("GET")
    meta().auth().apply(outgoing)
    assert (outgoing.headers, outgoing.query) == ({"Authorization": "Bearer token-1"}, {})


# -- audiences ------------------------------------------------------------------------------------------------


def test_create() -> None:
    """A customer list with our mark as its description; never repeated blindly, since names are not unique."""
    audience, calls = play(meta().create("VIP buyers", MARK), {"id": AUDIENCE.id, "message": ""})
    form = {
        "name": "VIP buyers",
        "subtype": "CUSTOM",
        "description": MARK,
        "customer_file_source": "USER_PROVIDED_ONLY",
    }
    assert calls == [Call("POST", "/act_42/customaudiences", form=form, safe=False)]
    assert audience == AUDIENCE


def test_find_reads_every_page() -> None:
    """The cursor is followed until there is no `next`; marked and same-named audiences are found, others are not."""
    first = {
        "data": [
            {"id": "13", "name": "Renamed since", "description": f"ours {MARK}"},
            {"id": "12", "name": "Other", "description": "dbt-segments:state1:shop.vip.meta2:x"},
            {"id": "11", "name": "Nameless"},
        ],
        "paging": {"cursors": {"before": "b", "after": "cursor-1"}, "next": "https://graph.facebook.com/next"},
    }
    second = {
        "data": [{"id": "9", "name": "VIP buyers", "description": "made by hand"}],
        "paging": {"cursors": {"before": "b", "after": "cursor-2"}},
    }
    found, calls = play(meta().find(MARK, "VIP buyers"), first, second)
    assert [dict(call.query).get("after") for call in calls] == [None, "cursor-1"]
    assert {(call.method, call.path) for call in calls} == {("GET", "/act_42/customaudiences")}
    assert found == [Audience("9", "VIP buyers", "", "act_42"), Audience("13", "Renamed since", MARK, "act_42")]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (MARK, True),
        ("dbt-segments:state1:shop.vip.meta", True),
        ("dbt-segments:state1:shop.vip.meta:", True),
        ("dbt-segments:state1:shop.vip.met", False),
        ("dbt-segments:state2:shop.vip.meta:n0nce", False),
        ("", False),
    ],
)
def test_a_mark_is_found_by_whole_parts(asked: str, found: bool) -> None:
    """The nonce may be left out; half a word, another state or no mark at all finds nothing."""
    page = {"data": [{"id": "13", "name": "A", "description": f"text {MARK} more"}]}
    audiences, _ = play(meta().find(asked, "B"), page)
    assert [audience.mark for audience in audiences] == ([MARK] if found else [])


def test_get() -> None:
    """An audience with its owner, as Meta knows it."""
    entry = {"id": AUDIENCE.id, "name": "VIP buyers", "description": MARK, "account_id": "77"}
    audience, [call] = play(meta().get(AUDIENCE.id), entry)
    assert (call.method, call.path) == ("GET", f"/{AUDIENCE.id}")
    assert audience == Audience(AUDIENCE.id, "VIP buyers", MARK, "act_77")


def test_an_audience_that_forgets_is_not_taken_over() -> None:
    """Its members would leave by themselves, and nobody asserts them again."""
    with pytest.raises(RefusedError) as caught:
        play(meta().adopt(AUDIENCE, MARK), {"id": AUDIENCE.id, "description": "", "retention_days": 30})
    assert caught.value.code == "retention_days"


@pytest.mark.parametrize("subtype", ["LOOKALIKE", "WEBSITE", "ENGAGEMENT"])
def test_what_is_no_customer_list_is_not_taken_over(subtype: str) -> None:
    """It takes no members, and nothing is written to it."""
    with pytest.raises(RefusedError) as caught:
        play(meta().adopt(AUDIENCE, MARK), {"id": AUDIENCE.id, "subtype": subtype, "description": ""})
    assert caught.value.code == "subtype"
    play(meta().adopt(AUDIENCE, MARK), {"id": AUDIENCE.id, "subtype": "CUSTOM", "description": MARK})


@pytest.mark.parametrize("reply", [{}, {"success": False}, {"success": "maybe"}])
def test_a_change_that_is_not_confirmed_is_not_done(reply: dict[str, Any]) -> None:
    """An audience that was not deleted, or has no mark, is not taken for one that was."""
    with pytest.raises(UnknownError):
        play(meta().delete(AUDIENCE), reply)
    with pytest.raises(UnknownError):
        play(meta().adopt(AUDIENCE, MARK), {"id": AUDIENCE.id, "description": ""}, reply)
    assert play(meta().delete(AUDIENCE), {"success": True})[0] is None


@pytest.mark.parametrize(
    ("description", "written"),
    [
        ("orders > 5", f"orders > 5 {MARK}"),
        (None, MARK),
        ("line\n  two", f"line\n  two {MARK}"),
        ("orders dbt-segments:lost:shop.vip.meta:old > 5", f"orders > 5 {MARK}"),
        (f"orders {MARK}", None),
    ],
)
def test_adopt_keeps_the_words(description: str | None, written: str | None) -> None:
    """The description's text stays, an older mark of ours is replaced, and our own mark is not written twice."""
    replies: list[Any] = [{"id": AUDIENCE.id, "description": description}]
    if written is not None:
        replies.append({"success": True})
    audience, calls = play(meta().adopt(Audience(AUDIENCE.id, "VIP buyers"), MARK), *replies)
    assert audience.mark == MARK
    assert [dict(call.form or {}) for call in calls[1:]] == ([{"description": written}] if written else [])


@pytest.mark.parametrize(
    ("entry", "size"),
    [
        ({"approximate_count_lower_bound": 1000, "approximate_count_upper_bound": 1200}, Size(1000, 1200)),
        ({"approximate_count_lower_bound": -1, "approximate_count_upper_bound": -1}, Size()),
        ({"operation_status": {"code": 441, "description": "x"}}, Size(status="populating")),
        (
            {"operation_status": {"code": 200}, "delivery_status": {"code": 300}},
            Size(status="too small to deliver"),
        ),
        ({"operation_status": {"code": 200}, "delivery_status": {"code": 200}}, Size(status="ready")),
        (
            {"operation_status": {"code": 200}, "delivery_status": {"code": 400}},
            Size(status="unusable (delivery code 400)"),
        ),
        ({"operation_status": {"code": 471}}, Size(status="flagged")),
        ({"operation_status": {"code": 450}}, Size(status="code 450")),
    ],
)
def test_size(entry: dict[str, Any], size: Size) -> None:
    """A range, -1 is not available; the status in words."""
    assert play(meta().size(AUDIENCE), entry)[0] == size


# -- members --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "edge", "extra"),
    [(Op.ADD, "users", {}), (Op.REMOVE, "users", {"method": "DELETE"}), (Op.REPLACE, "usersreplace", {})],
)
def test_members_travel_in_a_form(op: Op, edge: str, extra: Mapping[str, str]) -> None:
    """Payload and session are JSON in form fields; a removal is a POST that says DELETE in the form; no query."""
    outcome, [call] = play(meta().push(AUDIENCE, batch(op)), RECEIVED)
    assert outcome == Outcome()
    assert (call.method, call.path, call.query) == ("POST", f"/{AUDIENCE.id}/{edge}", {})
    form = dict(call.form or {})
    assert json.loads(form.pop("payload")) == {
        "schema": ["EMAIL", "EXTERN_ID"],
        "data": [["aa", "cust-0042"], ["", "A-17"]],
    }
    assert json.loads(form.pop("session")) == {
        "session_id": 9778993,
        "batch_seq": 1,
        "last_batch_flag": True,
        "estimated_num_total": 2,
    }
    assert form == extra


@pytest.mark.parametrize(
    ("op", "number", "safe"),
    [(Op.ADD, 1, True), (Op.REMOVE, 1, True), (Op.REPLACE, 1, False), (Op.REPLACE, 2, True)],
)
def test_only_the_first_batch_of_a_replace_is_never_repeated(op: Op, number: int, safe: bool) -> None:
    """Membership is a set, so repeats are harmless; batch 1 of a replace must not be sent twice."""
    _, [call] = play(meta().push(AUDIENCE, batch(op, number=number)), RECEIVED)
    assert call.safe is safe


def test_an_empty_batch_makes_no_call() -> None:
    """No rows, no request."""
    assert play(meta().push(AUDIENCE, batch(rows="", count=0))) == (Outcome(), [])


@pytest.mark.parametrize(("reported", "unattributed"), [(1, 1), ("2", 2), (7, 2)])
def test_invalid_entries_are_unattributed(reported: Any, unattributed: int) -> None:
    """Meta counts refused entries without naming rows, and roughly: never more than the batch has."""
    reply = {**RECEIVED, "num_invalid_entries": reported, "invalid_entry_samples": {"ada@example.com": "x"}}
    outcome, _ = play(meta().push(AUDIENCE, batch()), reply)
    assert outcome == Outcome(unattributed=unattributed)


def test_num_received_counts_the_session() -> None:
    """A later batch of a session is answered with the sum so far."""
    outcome, _ = play(meta().push(AUDIENCE, batch(number=3)), {**RECEIVED, "num_received": 20_002})
    assert outcome == Outcome()


@pytest.mark.parametrize("change", [{"num_received": 1}, {"num_received": None}, {"num_invalid_entries": None}])
def test_an_answer_that_does_not_account_for_all_rows_proves_nothing(change: dict[str, Any]) -> None:
    """Fewer rows received than sent, or no count at all, is no acceptance."""
    with pytest.raises(UnknownError):
        play(meta().push(AUDIENCE, batch()), {**RECEIVED, **change})


# -- faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "retry", "code"),
    [
        # retry with backoff
        (refusal(1), UnknownError, True, "1"),
        (refusal(2), UnknownError, True, "2"),
        (refusal(100, is_transient=True), UnknownError, True, "100"),
        # a code that is known decides, whatever HTTP status it comes with; of another one the status does
        (refusal(100, status=503), RefusedError, False, "100"),
        (refusal(190, 463, status=500), AuthError, False, "190/463"),
        (refusal(200, status=429), AuthError, False, "200"),
        (refusal(100, 33, status=500), GoneError, False, "100/33"),
        (refusal(12345, status=503), UnknownError, True, "12345"),
        (refusal(12345, status=429), TransientError, True, "12345"),
        (Reply(500), UnknownError, True, "500"),
        # throttled: judged by code, whatever the HTTP status
        *(
            (refusal(code, sub), TransientError, True, f"{code}/{sub}" if sub else f"{code}")
            for code, sub in [
                (4, None),
                (17, 2446079),
                (32, None),
                (341, None),
                (613, 1487742),
                (613, 5044001),
                (80003, 2446079),
            ]
        ),
        (refusal(4, status=200), TransientError, True, "4"),
        (Reply(429), TransientError, True, "429"),
        # temporary block: hours
        (refusal(368), TransientError, False, "368"),
        # gone
        (refusal(1487366), GoneError, False, "1487366"),
        (refusal(100, 1487301), GoneError, False, "100/1487301"),
        (refusal(100, 33), GoneError, False, "100/33"),
        # new token
        *((refusal(190, sub), AuthError, False, f"190/{sub}") for sub in (458, 459, 460, 463, 467)),
        (refusal(190, status=401), AuthError, False, "190"),
        # permission
        *((refusal(code), AuthError, False, str(code)) for code in (10, 200, 270, 294, 2654, 2663, 2664)),
        *((refusal(200, sub), AuthError, False, f"200/{sub}") for sub in (1870034, 1870090, 1870050)),
        (refusal(2654, 1713092), AuthError, False, "2654/1713092"),
        # request
        *((refusal(code), RefusedError, False, str(code)) for code in (100, 105, 194, 2650, 2655, 2635)),
        (refusal(100, 1713230), RefusedError, False, "100/1713230"),
        # replace sessions
        (refusal(2650, 1870145), TransientError, True, "2650/1870145"),
        (refusal(2650, 1870158), TransientError, False, "2650/1870158"),
        (refusal(2650, 1870147), TransientError, False, "2650/1870147"),
        (refusal(2650, 1870159), TransientError, False, "2650/1870159"),
        (refusal(2650, 1870148), UnknownError, False, "2650/1870148"),
        (refusal(2650, 1870144), RefusedError, False, "2650/1870144"),
        # a code nobody documents: bounded retries, then final
        (refusal(987654), RefusedError, True, "987654"),
        # without Meta's envelope
        (Reply(403), AuthError, False, "403"),
        (Reply(404), RefusedError, False, "404"),
    ],
)
def test_what_a_refusal_means(reply: Reply, error: type[DestinationError], retry: bool, code: str) -> None:
    """Class, retry and code of every row of the error table; Meta's own words are not repeated."""
    fault = meta().fault(USERS, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.error.code) == (error, retry, code)
    assert "ada@" not in f"{fault.error} {fault.error.hint}"


def test_code_1_is_tried_once_more() -> None:
    """An unknown error gets two tries in all."""
    fault = meta().fault(USERS, refusal(1))
    assert fault is not None
    assert fault.max_tries == 2


@pytest.mark.parametrize("code", [200, 100, 2650])
def test_a_removal_that_would_leave_too_few_is_owed(code: int) -> None:
    """Subcode 1870047 is no permission error: the removal stays owed, and halves would not help.

    Meta lists the subcode without its main code.
    """
    fault = meta().fault(USERS, refusal(code, 1870047))
    assert fault is not None
    assert isinstance(fault.error, RefusedError)
    assert (fault.error.owed, fault.error.divisible, fault.retry) == (True, False, False)


@pytest.mark.parametrize(
    ("path", "reply", "divisible"),
    [
        ("/1/users", refusal(100), True),
        ("/1/usersreplace", refusal(100), False),
        ("/act_42/customaudiences", refusal(100), False),
        ("/1/users", refusal(2650), False),
        ("/1/users", refusal(2635), False),
        ("/1/users", refusal(100, 1713230), False),
    ],
)
def test_only_an_invalid_upload_may_blame_a_row(path: str, reply: Reply, divisible: bool) -> None:
    """Halves are worth a try for an invalid parameter of an upload, not for a version, a form or a flagged list."""
    fault = meta().fault(Call("POST", path), reply)
    assert fault is not None
    assert isinstance(fault.error, RefusedError)
    assert fault.error.divisible is divisible


def test_an_ad_account_that_cannot_be_seen_is_no_vanished_audience() -> None:
    """100/33 on the account's own path is about access."""
    fault = meta().fault(Call("GET", "/act_42/customaudiences"), refusal(100, 33))
    assert fault is not None
    assert isinstance(fault.error, AuthError)
    assert "ad_account_id" in (fault.error.hint or "")


def test_terms_not_accepted_says_what_to_do() -> None:
    """1870034 and 1870090 name the terms."""
    for sub in (1870034, 1870090):
        fault = meta().fault(USERS, refusal(200, sub))
        assert fault is not None
        assert "terms" in (fault.error.hint or "")


@pytest.mark.parametrize("json_value", [None, [], "ok", 1])
def test_a_success_without_an_object_proves_nothing(json_value: Any) -> None:
    """HTML, invalid JSON, an empty body or a bare value in a 200: unknown, tried again."""
    fault = meta().fault(USERS, Reply(200, {}, json_value, empty=json_value is None))
    assert fault is not None
    assert isinstance(fault.error, UnknownError)
    assert fault.retry


def test_a_success_is_no_fault() -> None:
    """A 200 with Meta's object."""
    assert meta().fault(USERS, Reply(200, {}, RECEIVED)) is None


# -- pace -----------------------------------------------------------------------------------------------------


def usage(percent: float, minutes: float = 0, kind: str = "custom_audience") -> dict[str, str]:
    entry = {
        "type": kind,
        "call_count": percent,
        "total_cputime": 25,
        "total_time": 25,
        "estimated_time_to_regain_access": minutes,
    }
    return {"x-business-use-case-usage": json.dumps({"542": [entry]})}


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        (usage(28), None),
        (usage(80), None),
        (usage(90), 5.0),
        (usage(100), 60.0),
        (usage(100, 5), 300.0),  # minutes
        (usage(100, 5, kind="ads_insights"), None),
        ({"x-app-usage": '{"call_count":90,"total_cputime":0,"total_time":1}'}, 5.0),
        ({"x-ad-account-usage": '{"acc_id_util_pct":100.0}'}, 60.0),
        ({"x-app-usage": "not json"}, None),
        ({"x-business-use-case-usage": '{"542":"odd"}'}, None),
    ],
)
def test_usage_headers_slow_down(headers: dict[str, str], wait_s: float | None) -> None:
    """Nothing up to 80 percent, slower above, stop at 100, or for the minutes named; other buckets are ignored."""
    assert meta().pace(Reply(200, headers, RECEIVED)) == wait_s


def test_a_throttled_call_waits_the_named_minutes() -> None:
    """The usage header's minutes become the fault's wait; without them the sender backs off blindly."""
    for headers, wait_s in ((usage(100, 3), 180), (usage(100), None)):
        fault = meta().fault(USERS, Reply(400, headers, refusal(80003, 2446079).json))
        assert fault is not None
        assert fault.wait_s == wait_s


@pytest.mark.parametrize("path", ["get", "find", "create"])
def test_an_answer_without_what_was_asked_for_is_unknown(path: str) -> None:
    """An object that lacks the id or the list is no audience and no empty account."""
    flows: dict[str, Flow[Any]] = {
        "get": meta().get("1"),
        "find": meta().find(MARK, "VIP buyers"),
        "create": meta().create("VIP buyers", MARK),
    }
    with pytest.raises(UnknownError):
        play(flows[path], {"unexpected": True})
