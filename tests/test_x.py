"""The X destination: what values become, calls out, replies in, outcomes out.

Expectations are typed from the X Ads API v12 ("Audiences", "Error codes and responses", "Rate limiting"), read 2026-11;
two of the digests are X's own examples, the others were computed apart from the program.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from dbt_segments.cli import main
from dbt_segments.destinations.base import Audience, Batch, Call, Op, Outcome, Reply, Size
from dbt_segments.destinations.x import X, XSettings
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.identifiers.attempt import attempt
from dbt_segments.sandbox.server import Serving, build, serve
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from tests.flows import ok, play
from tests.one_click.case_x import CASE
from tests.projects import DuckDBWarehouse
from tests.world import make_world, sha

MARK = "dbt-segments:state1:shop.vip.x:n0nce"
LISTS = "/accounts/18ce54d4x5t/custom_audiences"
LIST = Audience("2906h", "VIP", MARK, "18ce54d4x5t")
USERS = Call("POST", f"{LISTS}/2906h/users")
GET = Call("GET", f"{LISTS}/2906h")
ENTRY = {"id": "2906h", "name": "VIP", "description": MARK, "audience_type": "CRM", "owner_account_id": "18ce54d4x5t"}


def x(**changes: Any) -> X:
    given = {
        "account_id": "18ce54d4x5t",
        "consumer_key": "ck",
        "consumer_secret": "cs",
        "access_token": "at",
        "access_token_secret": "ats",
        **changes,
    }
    return X(XSettings(**given))


def page(*entries: Any, cursor: str | None = None) -> Reply:
    return ok({"data": list(entries), "next_cursor": cursor})


def refusal(status: int, code: str | None = None, message: str = "for ada@example.com", **more: Any) -> Reply:
    return Reply(status, {}, {"errors": [{"code": code, "message": message}], "request": {}, **more})


TAKEN = refusal(400, "INVALID_PARAMETER", "An entity with this name already exists")

# -- identifiers ----------------------------------------------------------------------------------------------

JANE = "86e0b9e56c17cc4d12387e1949b85053fbe73bc3ce5a1188713a9d300cc6133d"
ADSAPI = "49e0be2aeccfb51a8dee4c945c8a70a9ac500cf6f5cb08112575f74db9b1470d"
DEVICE = "225859d35b46df63b4fb381eb3f815b2ef4620bec0a79f2115a6a3eb71a5fa1a"
_GMAIL = "a381164d961568fd2d50633268b5430ee56b338246ac900101d161dfae1236c1"
_PHONE = "d5ab8b77e69a81dfc634c3556c620d5d6753df6fc28c73c88c79a9332b705382"
_X_PHONE = "1fa6b8d986d9b9cd01bf36951815158bbde9f520c0567c835dfe34783d0a4231"
_JACK = "31611159e7e6ff7843ea4627745e89225fc866621cfcfdbd40871af4413747cc"
_TWITTER_ID = "617b8747525a154b1ecf75a42d883df00e0dd6d0f981bea57ac7bdce73e57eae"
IDFA = "4B61639E-47CC-4056-A16A-C8217E029462"

SENT = [
    ("email", "  Jane.Doe@Example.COM ", None, JANE),
    ("email", "J.Doe+News@Gmail.com", None, _GMAIL),
    ("email", f"\t{JANE.upper()} ", None, JANE),
    ("email", "Jos\u00e9@example.com", None, sha("jos\u00e9@example.com")),
    ("phone", "+1 (202) 555-0123", None, _PHONE),
    ("phone", "(202) 555-0123", "US", _PHONE),
    ("phone", "+1 123 456 7890", None, _X_PHONE),
    ("phone_number", "001 202 555 0123", None, _PHONE),
    ("phone", "\uff0b\uff11 202 555 0123", None, _PHONE),
    ("phone", "+44 (0)20 7946 0958", None, sha("+442079460958")),
    ("phone", "020 7946 0958", "GB", sha("+442079460958")),
    ("phone", "+1 202-555-0123 ext. 7", None, _PHONE),
    ("handle", "@AdsAPI", None, ADSAPI),
    ("handle", " @Jack", None, _JACK),
    ("handle", "jack", None, _JACK),
    ("twitter_id", "143567", None, _TWITTER_ID),
    ("twitter_id", 143567, None, _TWITTER_ID),
    ("maid", IDFA, None, DEVICE),
    ("idfa", IDFA, None, DEVICE),
    ("device_id", IDFA, None, DEVICE),
    ("android_id", "9774D56D682E549C", None, sha("9774d56d682e549c")),
    ("device_id", "9774d56d682e549c", None, sha("9774d56d682e549c")),
    ("android_id", "9774156682549E49", None, sha("9774156682549e49")),
    ("device_id", "9774156682549e49", None, sha("9774156682549e49")),
    ("partner_user_id", "  P-77 ", None, "P-77"),
    ("partner_user_id", JANE.upper(), None, JANE.upper()),
]
REFUSED = [
    ("email", "jane@", "email_invalid"),
    ("email", "Jane <jane@example.com>", "email_invalid"),
    ("email", "jane@example.com bob@example.com", "email_invalid"),
    ("email", "a" * 32, "email_invalid"),
    ("email", JANE[:63], "email_invalid"),
    ("email", " \u2003", "absent"),
    ("phone", "0123456", "phone_no_country"),
    ("handle", "https://x.com/jack", "handle_invalid"),
    ("handle", "@two words", "handle_invalid"),
    ("handle", "@@jack", "handle_invalid"),
    ("handle", "@", "absent"),
    ("twitter_id", "143567.0", "number_text"),
    ("twitter_id", "1.43567e5", "number_text"),
    ("twitter_id", "-143567", "numeric_id_invalid"),
    ("twitter_id", "\uff11\uff14\uff13", "numeric_id_invalid"),
    ("maid", "00000000-0000-0000-0000-000000000000", "maid_zero"),
    ("maid", IDFA.replace("-", ""), "maid_invalid"),
    ("maid", "9774d56d682e549c", "maid_invalid"),
    ("android_id", IDFA, "device_id_invalid"),
    ("android_id", "9.77415668254e+15", "number_text"),
    ("device_id", "1e16", "number_text"),
    ("android_id", "0" * 16, "device_id_invalid"),
    ("device_id", "00000000-0000-0000-0000-000000000000", "device_id_invalid"),
    ("first_name", "Jane", "identifier_not_taken"),
    ("external_id", "C-1", "identifier_not_taken"),
]


def tried(identifier: str, value: Any, country: str | None = None) -> dict[str, Any]:
    rules = {name: accepts.rule for name, accepts in X.identifiers.items()}
    fields = {accepts.field.lower(): name for name, accepts in X.identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value, "country": country}], rules, None, fields)
    return answer


@pytest.mark.parametrize(("identifier", "value", "country", "sent"), SENT)
def test_what_a_value_becomes(identifier: str, value: Any, country: str | None, sent: str) -> None:
    """X's own examples and this project's; only the partner's own id travels in clear."""
    answer = tried(identifier, value, country)
    assert (answer["sent"], answer["hashed"]) == (sent, identifier != "partner_user_id")


@pytest.mark.parametrize(("identifier", "value", "reason"), REFUSED)
def test_what_is_left_out(identifier: str, value: Any, reason: str) -> None:
    """Refused with a reason, never repaired."""
    answer = tried(identifier, value)
    assert (answer["sent"], answer["reason"]) == (None, reason)


# -- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "root"),
    [
        ({}, "https://ads-api.x.com/12"),
        ({"api_version": "13"}, "https://ads-api.x.com/13"),
        ({"base_url": "http://127.0.0.1:8199/x/"}, "http://127.0.0.1:8199/x/12"),
    ],
)
def test_root(changes: dict[str, str], root: str) -> None:
    """12 is pinned; address and version can be set."""
    assert x(**changes).root() == root


@pytest.mark.parametrize("account", ["", "18CE", "18ce/../x"])
def test_a_wrong_account_is_refused(account: str) -> None:
    """Lower-case letters and digits only: it becomes part of a path."""
    with pytest.raises(ValidationError):
        x(account_id=account)


@pytest.mark.parametrize("key", ["consumer_key", "consumer_secret", "access_token", "access_token_secret"])
def test_a_key_that_cannot_be_one_is_refused_unseen(key: str) -> None:
    """An empty one, or one with a line break, is named and not shown."""
    with pytest.raises(AuthError, match=key) as caught:
        x(**{key: "4711\n0815"}).auth()
    assert "0815" not in str(caught.value)


def test_the_token_is_not_logged_while_signing(caplog: pytest.LogCaptureFixture) -> None:
    """The signing library would tell it at DEBUG."""
    caplog.set_level(logging.DEBUG)
    destination = x(access_token="t0ken-of-ours")
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"data": []}))
    with Sender(destination, transport=transport) as sender:
        sender.play(destination.find("", "VIP"))
    assert "t0ken-of-ours" not in caplog.text


# -- audiences ------------------------------------------------------------------------------------------------


def test_create() -> None:
    """Name and mark in the query, no body; not repeated blindly."""
    audience, [call] = play(x(), x().create("VIP", MARK), ok({"data": ENTRY}))
    assert call == Call("POST", LISTS, query={"name": "VIP", "description": MARK}, safe=False)
    assert audience == LIST


def test_a_name_that_a_deleted_audience_keeps() -> None:
    """The next free one is taken, without regard to case, and the audience is known by it."""
    known = page({"id": "1", "name": "VIP", "deleted": True}, {"id": "2", "name": "vip (2)", "deleted": False})
    made = ok({"data": {**ENTRY, "name": "VIP (3)"}})
    audience, calls = play(x(), x().create("VIP", MARK), TAKEN, known, made)
    assert calls[1] == Call("GET", LISTS, query={"count": "1000", "q": "VIP", "with_deleted": "true"})
    assert calls[2].query["name"] == audience.name == "VIP (3)"


def test_a_name_that_a_living_audience_has() -> None:
    """There is no second one beside it."""
    with pytest.raises(RefusedError, match="of this name is there"):
        play(x(), x().create("VIP", MARK), TAKEN, page({"id": "1", "name": "VIP", "deleted": False}))


def test_a_long_name_is_cut() -> None:
    """255 characters at most, a number behind it included."""
    name = "V" * 300
    known = page({"id": "1", "name": "V" * 255, "deleted": True})
    _, calls = play(x(), x().create(name, MARK), TAKEN, known, ok({"data": ENTRY}))
    assert [len(calls[number].query["name"]) for number in (0, 2)] == [255, 251]
    assert calls[2].query["name"].endswith("V (2)")


def test_find_reads_every_page() -> None:
    """By our mark, whatever the name is now, and by the exact name; beginnings and other cases are no match."""
    first = page(
        {**ENTRY, "id": "b1", "name": "Renamed since", "description": f"ours {MARK}"},
        {**ENTRY, "id": "b2", "name": "VIP buyers", "description": None},
        cursor="c-1",
    )
    second = page(
        {**ENTRY, "id": "9", "description": "by hand"}, {**ENTRY, "id": "b3", "name": "vip", "description": ""}
    )
    found, calls = play(x(), x().find("dbt-segments:", "VIP"), first, second)
    assert [dict(call.query) for call in calls] == [{"count": "1000"}, {"count": "1000", "cursor": "c-1"}]
    assert [(one.id, one.mark) for one in found] == [("9", ""), ("b1", MARK)]


def test_an_answer_of_another_shape_proves_nothing() -> None:
    """A list where an audience is due is neither an audience nor a mistake of the program."""
    for flow in (x().get("2906h"), x().size(LIST), x().adopt(LIST, MARK), x().create("VIP", MARK)):
        with pytest.raises(UnknownError):
            play(x(), flow, ok({"data": []}))


def test_a_page_that_follows_itself_ends_the_listing() -> None:
    """Instead of being read for ever."""
    with pytest.raises(UnknownError, match="follows itself"):
        play(x(), x().find(MARK, "VIP"), page(cursor="c-1"), page(cursor="c-1"))


@pytest.mark.parametrize(
    ("description", "written"),
    [(None, MARK), ("orders > 5", f"orders > 5 {MARK}"), (f"a dbt-segments:old:s:n {MARK}", f"a {MARK}"), (MARK, None)],
)
def test_adopt_keeps_the_words(description: str | None, written: str | None) -> None:
    """The mark goes behind what people wrote, in place of an older one."""
    answers = [ok({"data": {**ENTRY, "description": description}})] + [ok({"data": ENTRY})] * (written is not None)
    audience, calls = play(x(), x().adopt(Audience("2906h", "VIP"), MARK), *answers)
    assert audience.mark == MARK
    assert calls[1:] == ([Call("PUT", GET.path, query={"description": written})] if written else [])


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        (
            {"audience_size": None, "targetable": False, "reasons_not_targetable": ["PROCESSING", "TOO_SMALL"]},
            Size(status="processing"),
        ),
        (
            {"audience_size": 70, "targetable": False, "reasons_not_targetable": ["TOO_SMALL"]},
            Size(70, 70, "too small to deliver"),
        ),
        ({"audience_size": 1200, "targetable": True, "reasons_not_targetable": []}, Size(1200, 1200, "ready")),
        ({"audience_size": None}, Size(status="processing")),
    ],
)
def test_size(facts: dict[str, Any], size: Size) -> None:
    """Matched users, and whether the audience can be used."""
    assert play(x(), x().size(LIST), ok({"data": {**ENTRY, **facts}}))[0] == size


def test_delete_is_done_where_it_is_gone() -> None:
    """The object and a 404 of the audience are both the end of it."""
    for answer in (ok({"data": {**ENTRY, "deleted": True}}), refusal(404, "NOT_FOUND")):
        _, [call] = play(x(), x().delete(LIST), answer)
        assert (call.method, call.path) == ("DELETE", GET.path)


@pytest.mark.parametrize(("role", "good"), [("ACCOUNT_ADMIN", True), ("AD_MANAGER", True), ("CAMPAIGN_ANALYST", False)])
def test_check(role: str, good: bool) -> None:
    """The keys, the account, the user's role and a warning about the version; the allow-list is not told."""
    access = ok({"data": {"user_id": "1", "permissions": [role, "TWEET_COMPOSER"]}}, **{"x-api-warn": "deprecated"})
    findings, calls = play(x(), x().check(), ok({"data": {"id": "18ce54d4x5t"}}), access)
    assert [call.path for call in calls] == [
        "/accounts/18ce54d4x5t",
        "/accounts/18ce54d4x5t/authenticated_user_access",
    ]
    assert [(one.what, one.good) for one in findings] == [
        ("credentials", True),
        ("account", True),
        ("scopes", good),
        ("version", False),
        ("app", None),
    ]


@pytest.mark.parametrize(
    ("answer", "what"),
    [(refusal(401, "UNAUTHORIZED_ACCESS"), "credentials"), (refusal(403, "ACCOUNT_NOT_FOUND"), "account")],
)
def test_check_says_what_is_wrong(answer: Reply, what: str) -> None:
    """With a remedy, and without asking more."""
    [finding], _ = play(x(), x().check(), answer)
    assert (finding.what, finding.good, bool(finding.hint)) == (what, False, True)


# -- members --------------------------------------------------------------------------------------------------


def batch(op: Op = Op.ADD, count: int = 2) -> Batch:
    rows = ",".join(json.dumps({"email": [f"{number:064x}"]}) for number in range(count))
    return Batch(op, rows, count, 1, True, count, id="g1-b1", session=1, fields=("email",))


def counts(success: Any, total: Any) -> Reply:
    return ok({"data": {"success_count": success, "total_count": total}})


@pytest.mark.parametrize(("op", "word"), [(Op.ADD, "Update"), (Op.REMOVE, "Delete")])
def test_push(op: Op, word: str) -> None:
    """A bare array with one operation; no times, X's default is its longest."""
    outcome, [call] = play(x(), x().push(LIST, batch(op)), counts(2, 2))
    assert outcome == Outcome()
    assert call.path == USERS.path
    users = [{"email": [f"{number:064x}"]} for number in range(2)]
    assert json.loads(str(call.body)) == [{"operation_type": word, "params": {"users": users}}]


@pytest.mark.parametrize("answer", [counts(1, 2), counts(2, 1), counts(3, 3), counts(None, None), ok({"data": []})])
def test_counts_that_do_not_add_up(answer: Reply) -> None:
    """The whole request is sent once more, and then it is unknown what became of it."""
    assert len(play(x(), x().push(LIST, batch()), answer, counts(2, 2))[1]) == 2
    with pytest.raises(UnknownError):
        play(x(), x().push(LIST, batch()), answer, answer)


# -- faults ---------------------------------------------------------------------------------------------------

FAULTS = [
    (USERS, refusal(429, "TOO_MANY_REQUESTS"), TransientError, "TOO_MANY_REQUESTS", True),
    (USERS, refusal(423, "LOCK_ACQUISITION_TIMEOUT"), TransientError, "LOCK_ACQUISITION_TIMEOUT", True),
    (USERS, refusal(500, "INTERNAL_ERROR"), UnknownError, "INTERNAL_ERROR", True),
    (USERS, refusal(503, "OVER_CAPACITY"), UnknownError, "OVER_CAPACITY", True),
    (USERS, Reply(504, {}, None), UnknownError, "504", True),
    (USERS, refusal(408, "CANCELLED_REQUEST"), UnknownError, "CANCELLED_REQUEST", True),
    (USERS, refusal(401, "UNAUTHORIZED_ACCESS"), AuthError, "UNAUTHORIZED_ACCESS", False),
    (USERS, refusal(403, "UNAUTHORIZED_CLIENT_APPLICATION"), AuthError, "UNAUTHORIZED_CLIENT_APPLICATION", False),
    (USERS, refusal(403, "READONLY_CLIENT_APPLICATION"), AuthError, "READONLY_CLIENT_APPLICATION", False),
    (USERS, refusal(403, "ACCOUNT_NOT_FOUND"), AuthError, "ACCOUNT_NOT_FOUND", False),
    (USERS, refusal(403, "ACTION_NOT_ALLOWED"), AuthError, "ACTION_NOT_ALLOWED", False),
    (USERS, refusal(403, "ACCOUNT_LOCKED_OUT"), AuthError, "ACCOUNT_LOCKED_OUT", False),
    (USERS, refusal(403, "CURRENT_USER_SUSPENDED"), AuthError, "CURRENT_USER_SUSPENDED", False),
    (USERS, Reply(403, {}, None), AuthError, "403", False),
    (USERS, refusal(404, "NOT_FOUND"), GoneError, "NOT_FOUND", False),
    (GET, refusal(404, "TAILORED_AUDIENCE_NOT_FOUND"), GoneError, "TAILORED_AUDIENCE_NOT_FOUND", False),
    (GET, refusal(404, "ROUTE_NOT_FOUND"), RefusedError, "ROUTE_NOT_FOUND", False),
    (GET, Reply(404, {}, None), RefusedError, "404", False),
    (Call("GET", LISTS), refusal(404, "NOT_FOUND"), AuthError, "NOT_FOUND", False),
    (USERS, refusal(400, "MISSING_PARAMETER"), RefusedError, "MISSING_PARAMETER", False),
    (USERS, refusal(400, "ILLEGAL_CHARACTERS"), RefusedError, "ILLEGAL_CHARACTERS", False),
    (USERS, refusal(400, "REQUEST_TOO_COMPLEX"), RefusedError, "REQUEST_TOO_COMPLEX", False),
    (USERS, refusal(400, "FEATURE_NOT_AVAILABLE"), RefusedError, "FEATURE_NOT_AVAILABLE", False),
    (USERS, ok(None), UnknownError, "200", True),
    (USERS, ok({"success": True}), UnknownError, "200", True),
]


@pytest.mark.parametrize(("call", "reply", "error", "code", "retry"), FAULTS)
def test_faults(call: Call, reply: Reply, error: type[DestinationError], code: str, retry: bool) -> None:
    """Every row of the table of errors; of X's words only the code is kept. Keys are never renewed."""
    fault = x().fault(call, reply)
    assert fault is not None
    assert (type(fault.error), fault.error.code, fault.retry, fault.renew) == (error, code, retry, False)
    assert "ada@" not in f"{fault.error} {fault.error.hint}"


@pytest.mark.parametrize(
    "errors", [[[{"code": "INVALID_PARAMETER", "message": "m"}]], [{"code": "INVALID_PARAMETER", "index": 0}]]
)
def test_an_operation_that_is_refused_is_halved(errors: Any) -> None:
    """Whatever the nesting: nothing was applied, and one bad user may be the cause."""
    fault = x().fault(USERS, refusal(400, "INVALID_PARAMETER", operation_errors=errors))
    plain = x().fault(USERS, refusal(400, "INVALID_PARAMETER"))
    found = [one.error for one in (fault, plain) if one is not None]
    assert [isinstance(error, RefusedError) and error.divisible for error in found] == [True, False]


DATE = "Mon, 23 Nov 2026 10:00:00 GMT"
NOW = 1_795_428_000


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(NOW + 60)}, 65.0),
        ({"x-rate-limit-remaining": "3", "x-rate-limit-reset": str(NOW + 60)}, None),
        (
            {
                "x-rate-limit-remaining": "0",
                "x-rate-limit-reset": str(NOW + 900),
                "x-account-rate-limit-remaining": "0",
                "x-account-rate-limit-reset": str(NOW + 30),
            },
            35.0,
        ),
        (
            {
                "x-rate-limit-remaining": "0",
                "x-rate-limit-reset": str(NOW + 900),
                "x-account-rate-limit-remaining": "7",
                "x-account-rate-limit-reset": str(NOW + 30),
            },
            None,
        ),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": str(NOW - 60)}, 5.0),
        ({"x-rate-limit-remaining": "0", "x-rate-limit-reset": "soon"}, None),
    ],
)
def test_pace(headers: dict[str, str], wait_s: float | None) -> None:
    """The account's headers come first; the reset is an epoch second, and the answer itself tells the time."""
    reply = Reply(200, {"date": DATE, **headers})
    assert x().pace(reply) == wait_s
    fault = x().fault(USERS, Reply(429, {"date": DATE, **headers}, None))
    assert fault is not None
    assert fault.wait_s == wait_s
    assert x().pace(Reply(200, headers)) is None


# -- against the sandbox --------------------------------------------------------------------------------------


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("x",))) as one:
        yield one


def connected(serving: Serving, **changes: Any) -> X:
    entry = CASE.connection(f"{serving.url}/x", Path())
    return X(XSettings(**{name: value for name, value in {**entry, **changes}.items() if name != "type"}))


def test_the_sandbox_keeps_names_of_the_deleted(serving: Serving) -> None:
    """Made, deleted, made again under another name, found by its mark behind many pages, adopted, checked."""
    destination = connected(serving)
    serving.sandbox.platforms["x"].policy["largest_page"] = 1
    with Sender(destination) as sender:
        first = sender.play(destination.create("VIP b: =+\u00e9", MARK))
        sender.play(destination.delete(first))
        with pytest.raises(GoneError):
            sender.play(destination.get(first.id))
        second = sender.play(destination.create("VIP b: =+\u00e9", MARK))
        assert second.name == "VIP b: =+\u00e9 (2)"
        sender.play(destination.create("Other", ""))
        assert sender.play(destination.find("dbt-segments:state1:shop.vip.x", "-")) == [second]
        assert sender.play(destination.adopt(second, f"{MARK}2")).mark == f"{MARK}2"
        assert sender.play(destination.get(second.id)).mark == f"{MARK}2"
        assert sender.play(destination.size(second)) == Size(0, 0, "too small to deliver")
        assert [one.good for one in sender.play(destination.check())] == [True, True, True, True, None]
    assert serving.state()["violations"]["x"] == []


@pytest.mark.parametrize("key", ["consumer_key", "consumer_secret", "access_token", "access_token_secret"])
def test_the_sandbox_checks_every_key(serving: Serving, key: str) -> None:
    """It makes the signature again; one wrong key is a 401."""
    destination = connected(serving, **{key: "wrong"})
    with Sender(destination) as sender, pytest.raises(AuthError):
        sender.play(destination.find("", "VIP"))


def test_a_signature_is_good_once(serving: Serving) -> None:
    """A call that is played again is refused: each repeat needs a nonce of its own."""
    destination = connected(serving)
    sent: list[httpx.Request] = []
    with httpx.Client() as client:

        def forward(request: httpx.Request) -> httpx.Response:
            sent.append(request)
            return httpx.Response(200, json=client.send(request).json())

        with Sender(destination, transport=httpx.MockTransport(forward)) as sender:
            sender.play(destination.find("", "VIP"))
            sender.play(destination.find("", "VIP"))
        assert len({request.headers["authorization"] for request in sent}) == 2
        assert client.send(sent[0]).status_code == 401


def test_a_sync_knows_its_audience_by_the_name_that_it_got(
    serving: Serving, tmp_path: Path, duckdb_warehouse: DuckDBWarehouse
) -> None:
    """A deleted audience keeps the label: the sync makes its own under another name, and keeps to that."""
    world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
    world.connections = {"x": CASE.connection(f"{serving.url}/x", tmp_path)}
    world.segments = {"vip": {"label": "VIP buyers", "destinations": ["x"]}}
    world.customers([(1, "ada@example.com"), (2, "bob@example.com")])
    world.segment([1])
    destination = connected(serving)
    with Sender(destination) as sender:
        sender.play(destination.delete(sender.play(destination.create("VIP buyers", ""))))
    assert world.sync().audience_name == "VIP buyers (2)"
    assert world.state("audiences", "name", "event = 'created'") == [("VIP buyers (2)",)]
    world.segment([1, 2])
    assert world.sync().status == "success"
    assert world.held("VIP buyers (2)") == {("email", sha("ada@example.com")), ("email", sha("bob@example.com"))}
    assert len(world.audiences()) == 1


def test_who_has_many_identifiers(serving: Serving, tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> None:
    """Two device ids share one list; who loses one stays in by the other, and a quote in an id does no harm."""
    world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
    world.identifiers = {"maid": "email", "android_id": "phone", "partner_user_id": "country"}
    world.connections = {"x": CASE.connection(f"{serving.url}/x", tmp_path)}
    world.segments = {"vip": {"label": "VIP buyers", "destinations": ["x"]}}
    world.customers([(1, IDFA, "9774D56D682E549C", 'P"7\\'), (2, None, None, "P-8"), (3, "no id", None)])
    world.segment([1, 2, 3])
    first = world.sync()
    assert (first.counts.added, first.counts.unusable) == (2, 1), first
    android = ("device_id", sha("9774d56d682e549c"))
    held = {("device_id", DEVICE), android, ("partner_user_id", 'P"7\\'), ("partner_user_id", "P-8")}
    assert world.held() == held
    world.customers([(1, IDFA, None, 'P"7\\'), (2, None, None, "P-8")])
    world.segment([1])
    assert world.sync().exit_code == 0
    assert world.held() == held - {android, ("partner_user_id", "P-8")}
    assert serving.state()["violations"]["x"] == []


class TestContract(DestinationContract):
    """Against the sandbox, which is asked over HTTP."""

    secrets = ("sandbox-consumer-secret", "sandbox-token-secret")
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, serving: Serving) -> Iterator[None]:
        with httpx.Client() as client:
            self.serving, self.client = serving, client
            yield

    def destination(self) -> X:
        return connected(self.serving)

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", MARK))

    def row(self, number: int, op: Op) -> str:
        return json.dumps({"email": [sha(f"{number}@example.com")]})

    def held(self) -> list[int]:
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for audience in self.serving.state()["audiences"] for _, value in audience["keys"]]


@pytest.mark.parametrize(("schedule", "warned"), [("hourly", 1), ("0 */6 * * *", 0), ("daily", 0)])
def test_a_schedule_that_is_closer_than_x_works_is_warned_of(
    serving: Serving, tmp_path: Path, duckdb_warehouse: DuckDBWarehouse, schedule: str, warned: int
) -> None:
    """X asks for one update in six to eight hours and enforces nothing, so the sync goes on."""
    world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
    world.connections = {"x": CASE.connection(f"{serving.url}/x", tmp_path)}
    world.segments = {"vip": {"destinations": [{"to": "x", "schedule": schedule}]}}
    world.customers([(1, "ada@example.com")])
    world.segment([1])
    (planned,) = world.plan().run.syncs
    result = world.sync()
    for one in (planned, result):
        assert len([note for note in one.notes if note.startswith("warning: cadence: ")]) == warned
    assert result.status == "success"
    folder = str(world.project.path)
    done = CliRunner().invoke(main, ["validate", "--project-dir", folder, "--profiles-dir", folder])
    assert done.exit_code == 0, done.output
    assert done.stdout.count("warning: shop.vip.x: schedule: the schedule `hourly` has slots 1 hour apart") == warned
