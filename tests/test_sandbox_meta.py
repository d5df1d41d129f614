"""The sandbox for Meta behaves as its contract says: strict about requests, forgetful only where the platform is.

Expectations are typed by hand from the contract of the Meta Marketing API (v26.0), sections 1, 2, 4 and 5.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.sandbox import Serving, build, serve
from dbt_segments.sandbox.platform import Clock

TOKEN = "sandbox-token"
ACCOUNT = "/v26.0/act_123"
CREATE = {"name": "VIP", "subtype": "CUSTOM", "customer_file_source": "USER_PROVIDED_ONLY"}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Sender:
    """A small client: forms as the official SDK sends them."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10)

    def create(self, **fields: str) -> str:
        answer = self.http.post(f"{ACCOUNT}/customaudiences", data={**CREATE, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def users(
        self,
        audience: str,
        rows: list[Any],
        *,
        op: str = "add",
        schema: Any = ("EMAIL", "EXTERN_ID"),
        session: int = 1,
        seq: int = 1,
        last: bool = True,
    ) -> httpx.Response:
        schema = schema if isinstance(schema, str) else list(schema)
        form = {
            "payload": json.dumps({"schema": schema, "data": rows}),
            "session": json.dumps({"session_id": session, "batch_seq": seq, "last_batch_flag": last}),
        }
        if op == "remove":
            form["method"] = "DELETE"
        edge = "usersreplace" if op == "replace" else "users"
        return self.http.post(f"/v26.0/{audience}/{edge}", data=form)

    def control(self, path: str, body: Any) -> Any:
        answer = self.http.post(f"/_sandbox/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def audience(self, audience: str) -> dict[str, Any]:
        found = self.http.get("/_sandbox/state").json()["audiences"]
        return next(one for one in found if one["id"] == audience)

    def values(self, audience: str) -> set[str]:
        return {value for _, value in self.audience(audience)["keys"]}


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with serve() as one:
        yield one


@pytest.fixture
def meta(serving: Serving) -> Iterator[Sender]:
    serving.sandbox.reset()
    sender = Sender(serving.url)
    yield sender
    sender.http.close()


def code(answer: httpx.Response) -> tuple[int, int | None]:
    error = answer.json()["error"]
    return error["code"], error.get("error_subcode")


# -- people ---------------------------------------------------------------------------------------------------


def test_a_removal_takes_the_person_out_with_every_key_ever_given(meta: Sender) -> None:
    """A removal by an old e-mail, sent after the new one was added, loses the member."""
    audience = meta.create()
    meta.users(audience, [[digest("old@example.com"), "c-1"]])
    meta.users(audience, [[digest("new@example.com"), "c-1"]], session=2)
    meta.users(audience, [[digest("old@example.com"), ""]], op="remove", session=3)
    assert meta.values(audience) == set()


def test_a_person_who_left_can_come_back_with_other_keys(meta: Sender) -> None:
    """Removing first and adding after keeps the member, and the old key no longer reaches it."""
    audience = meta.create()
    meta.users(audience, [[digest("old@example.com"), "c-1"]])
    meta.users(audience, [[digest("old@example.com"), ""]], op="remove", session=2)
    meta.users(audience, [[digest("new@example.com"), "c-1"]], session=3)
    meta.users(audience, [[digest("old@example.com"), ""]], op="remove", session=4)
    assert meta.values(audience) == {digest("new@example.com"), "c-1"}


def test_rows_that_share_a_key_are_one_person(meta: Sender) -> None:
    """Two customers with one e-mail are one person; the removal of either takes out both."""
    audience = meta.create()
    shared = digest("shared@example.com")
    meta.users(audience, [[shared, "c-1"], [shared, "c-2"], [digest("x@example.com"), "c-3"]])
    assert meta.audience(audience)["people"] == 2
    meta.users(audience, [["", "c-1"]], op="remove", session=2)
    assert meta.values(audience) == {digest("x@example.com"), "c-3"}


def test_a_seeded_person_is_reached_by_identifiers_never_uploaded(meta: Sender) -> None:
    """A removal by a key that the platform knows, but nobody sent, takes the person out."""
    audience = meta.create()
    home, work = digest("home@example.com"), digest("work@example.com")
    meta.control("people", [{"id": "ann", "identifiers": [["EMAIL", home], ["EMAIL", work]]}])
    meta.users(audience, [[home, "c-1"], [digest("x@example.com"), "c-2"]])
    assert meta.audience(audience)["persons"] == ["ann"]
    meta.users(audience, [[work, ""]], op="remove", session=2)
    assert meta.values(audience) == {digest("x@example.com"), "c-2"}


def test_an_external_id_is_forgotten_after_90_days(meta: Sender) -> None:
    """A removal by an external id alone reaches nobody once the platform has forgotten it."""
    audience = meta.create()
    meta.users(audience, [[digest("a@example.com"), "c-1"]])
    meta.control("clock", {"advance_s": 91 * 86_400})
    meta.users(audience, [["", "c-1"]], op="remove", session=2)
    assert meta.values(audience) == {digest("a@example.com")}


def test_names_match_nobody(meta: Sender) -> None:
    """A row of names and places is received and puts nobody in."""
    audience = meta.create()
    answer = meta.users(audience, [[digest("mary"), digest("us")]], schema=("FN", "COUNTRY"))
    assert answer.json()["num_received"] == 1
    assert meta.audience(audience)["people"] == 0


# -- strictness -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "schema", "reason"),
    [
        ([["a@example.com"]], ("EMAIL",), "EMAIL: malformed cell"),
        ([[digest("a").upper()]], ("EMAIL",), "EMAIL: malformed cell"),
        ([["15550100"]], ("PHONE",), "PHONE: malformed cell"),
        ([["Mary"]], ("FN",), "FN: malformed cell"),
        ([["00000000-0000-0000-0000-000000000000"]], ("MADID",), "MADID: malformed cell"),
        ([["38400000-8CF0-11BD-B23E-10B96E40000D"]], ("MADID",), "MADID: malformed cell"),
        ([[" c-1"]], ("EXTERN_ID",), "EXTERN_ID: malformed cell"),
        ([["", ""]], ("EMAIL", "PHONE"), "a row without any cell"),
    ],
)
def test_a_malformed_cell_costs_its_row(meta: Sender, rows: list[Any], schema: tuple[str, ...], reason: str) -> None:
    """Such a row is counted as invalid, not applied, and noted as a violation without its value."""
    audience = meta.create()
    good = [digest("good@example.com")] + [""] * (len(schema) - 1)
    answer = meta.users(audience, rows, schema=schema)
    assert answer.status_code == 200
    assert answer.json()["num_invalid_entries"] == 1
    assert meta.http.get("/_sandbox/state").json()["violations"]["meta"] == [f"add: {reason}"]
    assert meta.users(audience, [good], schema=("EMAIL", *schema[1:]), session=2).json()["num_invalid_entries"] == 0
    assert meta.values(audience) == {digest("good@example.com")}


@pytest.mark.parametrize(
    ("payload", "session"),
    [
        ({"schema": ["EMAIL", "PHONE"], "data": [[digest("a")]]}, {}),
        ({"schema": ["NICKNAME"], "data": [[digest("a")]]}, {}),
        ({"schema": ["EMAIL"], "data": []}, {}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]] * 10_001}, {}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]], "extra": 1}, {}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]]}, {"session_id": 0}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]]}, {"batch_seq": 0}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]]}, {"session_id": 2**63}),
        ({"schema": ["EMAIL"], "data": [[digest("a")]]}, {"other": 1}),
    ],
)
def test_a_malformed_upload_is_refused_whole(meta: Sender, payload: Any, session: dict[str, int]) -> None:
    """Code 100 and nothing applied; the same upload without the mistake is taken."""
    audience = meta.create()
    body = {"payload": payload, "session": {"session_id": 5, "batch_seq": 1, "last_batch_flag": True, **session}}
    answer = meta.http.post(f"/v26.0/{audience}/users", json=body)
    assert (answer.status_code, code(answer)) == (400, (100, None))
    assert meta.audience(audience)["people"] == 0


def test_a_session_is_required(meta: Sender) -> None:
    """An upload without a session is refused."""
    audience = meta.create()
    body = {"payload": {"schema": ["EMAIL"], "data": [[digest("a")]]}}
    assert code(meta.http.post(f"/v26.0/{audience}/users", json=body)) == (100, None)


def test_ten_thousand_rows_fit_one_request(meta: Sender) -> None:
    """The limit itself is allowed."""
    audience = meta.create()
    answer = meta.users(audience, [[digest(str(n))] for n in range(10_000)], schema=("EMAIL",))
    assert answer.json()["num_received"] == 10_000
    assert meta.audience(audience)["people"] == 10_000


def test_single_and_multi_key_uploads_do_not_mix(meta: Sender) -> None:
    """The second form is refused with code 2650."""
    audience = meta.create()
    assert meta.users(audience, [digest("a")], schema="EMAIL_SHA256").status_code == 200
    assert code(meta.users(audience, [[digest("b")]], schema=("EMAIL",), session=2)) == (2650, None)


@pytest.mark.parametrize("query", [{"access_token": TOKEN}, {"payload": "{}"}, {"fields": "id"}])
def test_a_query_string_on_an_upload_is_refused(meta: Sender, query: dict[str, str]) -> None:
    """Identifiers and tokens stay out of URLs, and a leak is noted."""
    audience = meta.create()
    answer = meta.http.post(f"/v26.0/{audience}/users", params=query, data={"payload": "{}", "session": "{}"})
    assert answer.status_code == 400
    assert meta.http.get("/_sandbox/state").json()["violations"]["meta"]


def test_a_token_is_required(serving: Serving, meta: Sender) -> None:
    """No token or a wrong one is code 190; a token in the form is as good as in the header."""
    bare = httpx.Client(base_url=serving.url)
    url = f"{ACCOUNT}/customaudiences"
    assert code(bare.post(url, data=CREATE)) == (190, None)
    assert code(bare.post(url, data={**CREATE, "access_token": "other"})) == (190, 467)
    assert bare.post(url, data={**CREATE, "access_token": TOKEN}).status_code == 200
    bare.close()


def test_an_app_secret_demands_its_proof() -> None:
    """With an app secret, calls without the right appsecret_proof are refused."""
    with serve(sandbox=build(app_secret="hush")) as one:
        meta = Sender(one.url)
        proof = hmac.new(b"hush", TOKEN.encode(), hashlib.sha256).hexdigest()
        assert code(meta.http.post(f"{ACCOUNT}/customaudiences", data=CREATE)) == (100, None)
        assert meta.create(appsecret_proof=proof)
        meta.http.close()


@pytest.mark.parametrize("missing", ["name", "subtype", "customer_file_source"])
def test_an_audience_needs_its_required_fields(meta: Sender, missing: str) -> None:
    """Without one of them the audience is not made."""
    form = {name: value for name, value in CREATE.items() if name != missing}
    assert code(meta.http.post(f"{ACCOUNT}/customaudiences", data=form)) == (100, None)


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/act_123/customaudiences", 2500), ("/v19.0/act_123/customaudiences", 2635), ("/v26.0/act_123/other", 2500)],
)
def test_the_version_stands_in_the_path(meta: Sender, path: str, expected: int) -> None:
    """No version, an expired one, or an unknown edge is refused."""
    assert code(meta.http.post(path, data=CREATE))[0] == expected


def test_unknown_form_fields_are_refused(meta: Sender) -> None:
    """A field that the platform does not document is a mistake here."""
    assert code(meta.http.post(f"{ACCOUNT}/customaudiences", data={**CREATE, "colour": "red"})) == (100, None)


# -- audiences ------------------------------------------------------------------------------------------------


def test_audiences_are_listed_in_pages_and_found_by_name(meta: Sender) -> None:
    """Cursors lead to every audience once; EQUAL finds all of that name and no other."""
    made = [meta.create(name=name, description=f"about {name}") for name in ("A", "B", "A", "C", "A b")]
    seen, after = [], None
    for _ in range(10):
        query = {"fields": "name,description", "limit": "2", **({"after": after} if after else {})}
        page = meta.http.get(f"{ACCOUNT}/customaudiences", params=query).json()
        seen += [one["id"] for one in page["data"]]
        if "next" not in page["paging"]:
            break
        after = page["paging"]["cursors"]["after"]
    assert seen == made
    named = json.dumps([{"field": "name", "operator": "EQUAL", "value": "A"}])
    found = meta.http.get(f"{ACCOUNT}/customaudiences", params={"fields": "name", "filtering": named}).json()["data"]
    assert [one["id"] for one in found] == [made[0], made[2]]
    assert meta.http.get("/v26.0/act_9/customaudiences").json() == {"data": []}


def test_only_asked_fields_are_shown(meta: Sender) -> None:
    """Without `fields` there is the id; an update changes name and description."""
    audience = meta.create(description="mine")
    assert meta.http.get(f"/v26.0/{audience}").json() == {"id": audience}
    meta.http.post(f"/v26.0/{audience}", data={"description": "ours"})
    shown = meta.http.get(f"/v26.0/{audience}", params={"fields": "name,description"}).json()
    assert shown == {"id": audience, "name": "VIP", "description": "ours"}
    assert code(meta.http.get(f"/v26.0/{audience}", params={"fields": "colour"})) == (100, None)


def test_a_deleted_audience_is_gone(meta: Sender) -> None:
    """Deleted by a call or behind our back, it answers 100/33 and is in no list."""
    first, second = meta.create(), meta.create()
    meta.http.delete(f"/v26.0/{first}")
    meta.http.delete(f"/_sandbox/audiences/{second}")
    assert code(meta.users(first, [["", "c-1"]])) == (100, 33)
    assert code(meta.http.get(f"/v26.0/{second}")) == (100, 33)
    assert meta.http.get(f"{ACCOUNT}/customaudiences").json()["data"] == []


def test_people_put_in_by_somebody_else_stay(meta: Sender) -> None:
    """A removal of ours leaves foreign members alone."""
    audience = meta.create()
    meta.control(f"audiences/{audience}/foreign", {"rows": [[["EMAIL", digest("theirs@example.org")]]]})
    meta.users(audience, [[digest("a@example.com"), "c-1"]])
    meta.users(audience, [[digest("a@example.com"), ""]], op="remove", session=2)
    assert meta.values(audience) == {digest("theirs@example.org")}


def test_sizes_are_a_range(meta: Sender) -> None:
    """Nothing is -1; otherwise the number of people lies between the bounds."""
    audience = meta.create()
    fields = {"fields": "approximate_count_lower_bound,approximate_count_upper_bound,operation_status"}
    assert meta.http.get(f"/v26.0/{audience}", params=fields).json()["approximate_count_lower_bound"] == -1
    meta.users(audience, [[digest(str(n)), ""] for n in range(250)])
    shown = meta.http.get(f"/v26.0/{audience}", params=fields).json()
    assert (shown["approximate_count_lower_bound"], shown["approximate_count_upper_bound"]) == (200, 300)
    assert shown["operation_status"]["code"] == 200


# -- sessions and replace -------------------------------------------------------------------------------------


def test_a_session_counts_all_its_rows(meta: Sender) -> None:
    """num_received grows with each batch, and /sessions shows the same."""
    audience = meta.create()
    meta.users(audience, [["", "c-1"], ["", "c-2"]], session=7, last=False)
    answer = meta.users(audience, [["", "c-3"]], session=7, seq=2)
    assert answer.json()["num_received"] == 3
    shown = meta.http.get(f"/v26.0/{audience}/sessions", params={"session_id": "7"}).json()["data"]
    assert [(one["num_received"], one["stage"]) for one in shown] == [("3", "finished")]


def test_a_session_serves_one_audience_and_one_operation(meta: Sender) -> None:
    """Its id is unique in the account."""
    first, second = meta.create(), meta.create()
    meta.users(first, [["", "c-1"]], session=7)
    assert code(meta.users(second, [["", "c-1"]], session=7)) == (100, None)
    assert code(meta.users(first, [["", "c-1"]], session=7, op="remove")) == (100, None)


def test_a_replace_swaps_everything_at_once(meta: Sender) -> None:
    """Until the last batch nothing changes; then exactly its rows are in, in whatever order batches came."""
    audience = meta.create()
    meta.users(audience, [["", "old"]])
    meta.users(audience, [["", "a"]], op="replace", session=2, seq=1, last=False)
    meta.users(audience, [["", "c"]], op="replace", session=2, seq=3, last=True)
    assert meta.values(audience) == {"old"}
    meta.users(audience, [["", "b"]], op="replace", session=2, seq=2, last=False)
    assert meta.values(audience) == {"a", "b", "c"}


def test_a_replace_refuses_what_its_rules_forbid(meta: Sender) -> None:
    """Another replace, /users meanwhile, a missing first batch, a finished session: each has its subcode."""
    audience = meta.create()
    assert code(meta.users(audience, [["", "a"]], op="replace", session=2, seq=2)) == (2650, 1870147)
    meta.users(audience, [["", "a"]], op="replace", session=3, seq=1, last=False)
    assert code(meta.users(audience, [["", "b"]], op="replace", session=4, seq=1)) == (2650, 1870145)
    assert code(meta.users(audience, [["", "b"]], session=5)) == (2650, 1870145)
    meta.users(audience, [["", "c"]], op="replace", session=3, seq=2)
    assert code(meta.users(audience, [["", "d"]], op="replace", session=3, seq=3)) == (2650, 1870159)
    assert meta.values(audience) == {"a", "c"}


def test_a_second_first_batch_breaks_the_replace(meta: Sender) -> None:
    """The old members stay, and a new session may start."""
    audience = meta.create()
    meta.users(audience, [["", "old"]])
    meta.users(audience, [["", "a"]], op="replace", session=3, last=False)
    assert code(meta.users(audience, [["", "a"]], op="replace", session=3, last=False)) == (2650, 1870148)
    assert meta.values(audience) == {"old"}
    assert meta.users(audience, [["", "a"]], op="replace", session=4).status_code == 200
    assert meta.values(audience) == {"a"}


def test_a_replace_closes_after_90_minutes_with_what_it_has(meta: Sender) -> None:
    """Later batches find the session out of time."""
    audience = meta.create()
    meta.users(audience, [["", "old"], ["", "older"]])
    meta.users(audience, [["", "a"]], op="replace", session=3, last=False)
    meta.control("clock", {"advance_s": 90 * 60 + 1})
    assert code(meta.users(audience, [["", "b"]], op="replace", session=3, seq=2)) == (2650, 1870158)
    assert meta.values(audience) == {"a"}


# -- policies -------------------------------------------------------------------------------------------------


def test_a_removal_may_not_leave_too_few_people(meta: Sender) -> None:
    """Below the minimum it is refused whole with 200/1870047; a removal of nobody is not."""
    meta.control("policy", {"minimum_members": 2})
    audience = meta.create()
    meta.users(audience, [["", "a"], ["", "b"], ["", "c"]])
    assert meta.users(audience, [["", "a"]], op="remove", session=2).status_code == 200
    assert code(meta.users(audience, [["", "b"]], op="remove", session=3)) == (200, 1870047)
    assert meta.users(audience, [["", "nobody"]], op="remove", session=4).status_code == 200
    assert meta.values(audience) == {"b", "c"}


def test_calls_are_throttled_by_the_hour(meta: Sender) -> None:
    """The header counts up to 100 percent, then 80003 asks for minutes; the next hour is free again."""
    meta.control("policy", {"calls_per_hour": 2})
    url = f"{ACCOUNT}/customaudiences"
    usage = [json.loads(meta.http.get(url).headers["X-Business-Use-Case-Usage"])["123"][0] for _ in range(2)]
    assert [one["call_count"] for one in usage] == [50, 100]
    refused = meta.http.get(url)
    assert code(refused) == (80003, 2446079)
    minutes = json.loads(refused.headers["X-Business-Use-Case-Usage"])["123"][0]["estimated_time_to_regain_access"]
    assert 1 <= minutes <= 61
    meta.control("clock", {"advance_s": minutes * 60})
    assert meta.http.get(url).status_code == 200


def test_terms_must_be_accepted(meta: Sender) -> None:
    """Without them nothing is made and nobody uploaded."""
    audience = meta.create()
    meta.control("policy", {"terms_accepted": False})
    assert code(meta.users(audience, [["", "a"]])) == (200, 1870090)
    assert meta.http.get(ACCOUNT, params={"fields": "tos_accepted"}).json()["tos_accepted"] == {
        "custom_audience_tos": 0
    }


# -- failures on request --------------------------------------------------------------------------------------

ADD = [["", "a"]]


@pytest.mark.parametrize(
    ("fault", "status", "expected"),
    [
        ({"kind": "status", "status": 500}, 500, (2, None)),
        ({"kind": "status", "status": 429, "code": 613, "subcode": 1487742}, 429, (613, 1487742)),
        ({"kind": "throttle", "minutes": 3}, 400, (80003, 2446079)),
        ({"kind": "expired_token"}, 400, (190, 463)),
        ({"kind": "too_small"}, 400, (200, 1870047)),
        ({"kind": "gone"}, 400, (100, 33)),
    ],
)
def test_a_fault_refuses_in_the_platforms_words(meta: Sender, fault: Any, status: int, expected: Any) -> None:
    """Once, without applying; the same request then succeeds."""
    audience = meta.create()
    meta.control("faults", fault)
    answer = meta.users(audience, ADD)
    assert (answer.status_code, code(answer)) == (status, expected)
    assert meta.values(audience) == set()
    assert meta.users(audience, ADD).status_code == 200
    assert meta.values(audience) == {"a"}


@pytest.mark.parametrize(
    ("fault", "applied"),
    [
        ({"kind": "reset_before"}, False),
        ({"kind": "reset_after"}, True),
        ({"kind": "hang"}, False),
        ({"kind": "hang", "applied": True}, True),
    ],
)
def test_a_cut_connection_leaves_the_caller_without_an_answer(meta: Sender, fault: Any, applied: bool) -> None:
    """Whether the request was applied shows in the members only."""
    audience = meta.create()
    meta.control("faults", {**fault, "match": {"op": "add"}})
    meta.http.timeout = httpx.Timeout(0.3)
    with pytest.raises(httpx.TransportError):
        meta.users(audience, ADD)
    meta.http.timeout = httpx.Timeout(10)
    assert meta.values(audience) == ({"a"} if applied else set())


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("kind", ["html", "truncated", "empty"])
def test_a_success_may_prove_nothing(meta: Sender, kind: str, applied: bool) -> None:
    """Status 200 without JSON, applied or not as asked."""
    audience = meta.create()
    meta.control("faults", {"kind": kind, "applied": applied})
    answer = meta.users(audience, ADD)
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"."):
        answer.json()
    assert meta.values(audience) == ({"a"} if applied else set())


def test_faults_wait_for_their_turn(meta: Sender) -> None:
    """`after` lets requests pass, `times` bounds the failures, `match` picks the operation."""
    audience = meta.create()
    meta.control("faults", {"kind": "status", "match": {"op": "add", "method": "POST"}, "after": 1, "times": 2})
    seen = [meta.users(audience, ADD, session=n).status_code for n in range(1, 5)]
    assert seen == [200, 500, 500, 200]
    assert meta.http.get("/_sandbox/state").json()["faults"] == []
    assert meta.http.post("/_sandbox/faults", json={"kind": "flood"}).status_code == 400


def test_partial_duplicate_and_usage(meta: Sender) -> None:
    """Rows refused by count only, a request delivered twice, and a header that warns."""
    audience = meta.create()
    meta.control("faults", [{"kind": "partial", "rows": 1}, {"kind": "duplicate"}, {"kind": "usage", "percent": 97}])
    assert meta.users(audience, [["", "a"], ["", "b"]]).json()["num_invalid_entries"] == 1
    assert meta.values(audience) == {"b"}
    assert meta.users(audience, ADD, session=2).json()["num_received"] == 2
    usage = json.loads(meta.users(audience, ADD, session=3).headers["X-Business-Use-Case-Usage"])
    assert usage["123"][0]["call_count"] == 97


# -- the server -----------------------------------------------------------------------------------------------


def test_the_call_log_holds_no_secret_and_no_identifier(meta: Sender) -> None:
    """Method, path, operation, rows and status; nothing of a body, header or query."""
    audience = meta.create()
    meta.users(audience, [[digest("a@example.com"), "c-17"]])
    calls = meta.http.get("/_sandbox/calls", params={"last": "1"})
    assert calls.json()["made"] == 2
    call = calls.json()["calls"][0]
    assert (call["method"], call["op"], call["rows"], call["status"]) == ("POST", "add", 1, 200)
    for private in (TOKEN, digest("a@example.com"), "c-17"):
        assert private not in calls.text


def test_the_page_escapes_what_it_shows(meta: Sender) -> None:
    """A name with markup is text, and nothing is loaded from elsewhere."""
    meta.create(name="<script>alert(1)</script>")
    page = meta.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;script&gt;" in page.text
    assert "<script" not in page.text
    assert "http" not in page.text


def test_the_clock_can_be_given() -> None:
    """Time stands still unless the given clock moves."""
    now = [1_000_000.0]
    sandbox = build(clock=Clock(lambda: now[0]))
    with serve(sandbox=sandbox) as one:
        meta = Sender(one.url)
        assert meta.http.get("/_sandbox/state").json()["now"] == 1_000_000.0
        now[0] += 5
        assert one.state()["now"] == 1_000_005.0
        meta.http.close()


def test_members_outlive_the_process(tmp_path: Path) -> None:
    """The command prints its URL, serves, saves at SIGTERM, and the next start knows the members."""
    file = tmp_path / "state.json"
    command = [sys.executable, "-m", "dbt_segments.sandbox", "--port", "0", "--platform", "meta", "--state", str(file)]
    expected = {digest("a@example.com"), "c-1"}
    audience = ""
    for stop in (signal.SIGTERM, signal.SIGINT):
        root = Path(__file__).parent.parent
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=dict(os.environ)) as process:
            assert process.stdout is not None
            meta = Sender(process.stdout.readline().strip())
            if not audience:
                audience = meta.create()
                meta.users(audience, [[digest("a@example.com"), "c-1"]])
            seen = meta.values(audience)
            meta.http.close()
            process.send_signal(stop)
        assert seen == expected
        assert process.returncode == 0
    assert list(tmp_path.iterdir()) == [file]
