"""The Reddit destination: what values become, calls out, replies in, outcomes out.

Expectations are typed from the Reddit Ads API v3 reference ("Custom Audiences", "Errors", "Rate limits") and the test
vectors of "Manual Advanced Matching for Developers", read 2026-11; other digests were computed apart from the program.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from pydantic import ValidationError

from dbt_segments import pipeline, sizes
from dbt_segments.choose import choose
from dbt_segments.destinations.auth import Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size
from dbt_segments.destinations.reddit import Reddit, RedditSettings
from dbt_segments.errors import (
    AuthError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.identifiers.attempt import attempt
from dbt_segments.sandbox.platform import Clock
from dbt_segments.sandbox.server import Serving, build, serve
from dbt_segments.send import Sender
from dbt_segments.testing import DestinationContract
from dbt_segments.values import Identifier
from tests.flows import ok, play
from tests.one_click.case_reddit import CASE
from tests.projects import DuckDBWarehouse
from tests.world import make_world, sha

AGENT = "web:com.example.audiences:v1.0.0 (by /u/example_ads)"
LIST = Audience("ca.25", "VIP buyers", account="a2_shop")
USERS = Call("PATCH", "/custom_audiences/ca.25/users")
GET = Call("GET", "/custom_audiences/ca.25")
ACCOUNT = "/ad_accounts/a2_shop/custom_audiences"
ENTRY = {"id": "ca.25", "ad_account_id": "a2_shop", "name": "VIP buyers", "type": "CUSTOMER_LIST", "status": "PENDING"}


def settings(**changes: Any) -> RedditSettings:
    given = {
        "ad_account_id": "a2_shop",
        "client_id": "client-1",
        "client_secret": "s3cret",
        "refresh_token": "refresh-1",
        "user_agent": AGENT,
        **changes,
    }
    return RedditSettings(**given)


def reddit(**changes: Any) -> Reddit:
    return Reddit(settings(**changes))


def batch(op: Op = Op.ADD, *, kind: str = "email", rows: tuple[str, ...] = ("aa", "bb")) -> Batch:
    text = ",".join(json.dumps([row]) for row in rows)
    return Batch(op, text, len(rows), 1, True, len(rows), id="g1-b1", session=1, fields=(kind,))


# -- identifiers ----------------------------------------------------------------------------------------------

IDFA = "EA7583CD-A667-48BC-B806-42ECB2B48606"
AAID = "cdda802e-fb9c-47ad-9866-0794d394c912"
ALICE = "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976"
_IDFA = "70574fa9c8f498a7b2e5c8712b1126de7b1406fd02fdc591821c5bd33092fd1c"
_AAID = "f23b554b2a8fb732a8b973733832e70f018da7bc294dfea289735a07d5dd2c9f"
_FIRST_LAST = "8528df792d31ba2be0fa4a109a52694ca3d523f3b48fb1d80ef15c728ea29ce4"
_LOWERED_IDFA = "6cd6140c54b2741b81b0099b232a3ddaeed82df456f43563574877baec22b632"

SENT = [
    ("email", "alice@example.com", ALICE),
    ("email", "Al.ice$+Apple@Example.Com", ALICE),
    ("email_sha256", "alice@example.com", ALICE),
    ("email", "  First.Last+promo@Sub.Example.CO.UK ", _FIRST_LAST),
    ("email", "Jane_Doe-99@Gmail.com", "01c02743945217c50f4ce81fc04018141bfe5d254e31fcb9ba366add55dcbde6"),
    ("email", "Zo\u00eb@example.com", sha("zo@example.com")),
    ("email", "alice+a+b@my.ex-ample.com", sha("alice@my.ex-ample.com")),
    ("email", f" {ALICE.upper()}\t", ALICE),
    ("idfa", IDFA, _IDFA),
    ("idfa", IDFA.lower(), _IDFA),
    ("aaid", AAID, _AAID),
    ("aaid", AAID.upper(), _AAID),
    ("maid", IDFA, _IDFA),
    ("maid", IDFA.lower(), _LOWERED_IDFA),
    ("maid", AAID, _AAID),
    ("mobile_id", AAID, _AAID),
    ("idfa", _IDFA.upper(), _IDFA),
]  # fmt: skip
REFUSED = [
    ("email", "alice@", "email_invalid"),
    ("email", "alice@example", "email_invalid"),
    ("email", "Alice <alice@example.com>", "email_invalid"),
    ("email", "alice@example.com,bob@example.com", "email_invalid"),
    ("email", "alice@@example.com", "email_invalid"),
    ("email", "al ice@example.com", "email_invalid"),
    ("email", "+promo@example.com", "email_invalid"),
    ("email", "_.-@example.com", "email_invalid"),
    ("email", "\u30e6\u30fc\u30b6@example.com", "email_invalid"),
    ("email", 42, "email_invalid"),
    ("email", "a" * 40, "email_invalid"),
    ("email", ALICE[:63], "email_invalid"),
    ("email", " \u00a0\t", "absent"),
    ("email", None, "absent"),
    ("idfa", "00000000-0000-0000-0000-000000000000", "maid_zero"),
    ("idfa", "0" * 32, "maid_zero"),
    ("aaid", AAID.replace("-", ""), "maid_invalid"),
    ("aaid", "cdda802e-fb9c-47ad-9866-0794d394c91g", "maid_invalid"),
    ("maid", "alice@example.com", "maid_invalid"),
    ("phone", "+12015550123", "identifier_not_taken"),
    ("first_name", "Alice", "identifier_not_taken"),
]


def tried(identifier: str, value: Any) -> dict[str, Any]:
    rules = {name: accepts.rule for name, accepts in Reddit.identifiers.items()}
    fields = {accepts.field.lower(): name for name, accepts in Reddit.identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value}], rules, None, fields)
    return answer


@pytest.mark.parametrize(("identifier", "value", "sent"), SENT)
def test_what_a_value_becomes(identifier: str, value: Any, sent: str) -> None:
    """The platform's own vectors and this project's; nothing travels in clear."""
    answer = tried(identifier, value)
    assert (answer["sent"], answer["hashed"]) == (sent, True)


@pytest.mark.parametrize(("identifier", "value", "reason"), REFUSED)
def test_what_is_left_out(identifier: str, value: Any, reason: str) -> None:
    """Refused before anything is deleted from it: no other person's address is made."""
    answer = tried(identifier, value)
    assert (answer["sent"], answer["reason"]) == (None, reason)


@pytest.mark.parametrize(
    ("has", "chosen"),
    [
        ([Identifier("maid", "m", os="ios")], {"idfa": "m"}),
        ([Identifier("maid", "m", os="android")], {"aaid": "m"}),
        ([Identifier("maid", "m")], {"maid": "m"}),
        ([Identifier("idfa", "i"), Identifier("aaid", "a")], {"idfa": "i", "aaid": "a"}),
        ([Identifier("idfa", "i"), Identifier("maid", "m")], {"idfa": "i", "maid": "m"}),
        ([Identifier("email", "e"), Identifier("phone", "p")], {"email": "e"}),
    ],
)
def test_a_mobile_id_is_sent_once_under_its_system(has: list[Identifier], chosen: dict[str, str]) -> None:
    """One column is never hashed in two cases; a phone is not taken."""
    found, wrong = choose(has, Reddit)
    assert ({one.name: one.column for one in found}, wrong) == (chosen, [])


# -- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "root"),
    [
        ({}, "https://ads-api.reddit.com/api/v3"),
        ({"api_version": "v4"}, "https://ads-api.reddit.com/api/v4"),
        ({"base_url": "http://127.0.0.1:8199/reddit/api/"}, "http://127.0.0.1:8199/reddit/api/v3"),
    ],
)
def test_root(changes: dict[str, str], root: str) -> None:
    """v3 is pinned; address and version can be set."""
    assert reddit(**changes).root() == root


@pytest.mark.parametrize(
    "wrong",
    [
        {"ad_account_id": "12345"},
        {"ad_account_id": "a2_../x"},
        {"user_agent": ""},
        {"user_agent": "python-requests/2.34"},
        {"user_agent": "curl/8.1"},
        {"user_agent": "Mozilla/5.0"},
        {"user_agent": "web:a:1\r\nX-Other: 1"},
        {"client_secret": None},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    """Both prefixes of accounts are known; a library's User-Agent would be blocked."""
    with pytest.raises(ValidationError) as caught:
        settings(**wrong)
    assert "s3cret" not in str(caught.value)


def test_both_account_prefixes_and_a_platform_named_like_a_language() -> None:
    """t2_ is as legal as a2_; `python:` is the first part of a User-Agent of the documented shape."""
    named = settings(ad_account_id="t2_abc", user_agent="python:com.example:v1 (by /u/example_ads)")
    assert (Reddit(named).account(), named.user_agent[:7]) == ("t2_abc", "python:")


def test_tokens_are_fetched_with_basic_and_the_own_name(tmp_path: Path) -> None:
    """The token endpoint is Reddit's, not the ads host's; every call carries the configured User-Agent."""
    auth = reddit(token_file=str(tmp_path / "tokens.json")).auth()
    posted: list[Any] = []

    def post(url: str, form: Any, headers: Any) -> Reply:
        posted.append((url, dict(form), dict(headers)))
        return Reply(200, {}, {"access_token": "token-1", "expires_in": 3600})

    auth.ready(post)
    outgoing = Outgoing("GET")
    auth.apply(outgoing)
    [(url, form, headers)] = posted
    assert url == "https://www.reddit.com/api/v1/access_token"
    assert form == {"grant_type": "refresh_token", "refresh_token": "refresh-1"}
    assert headers == {"Authorization": "Basic Y2xpZW50LTE6czNjcmV0", "User-Agent": AGENT}
    assert outgoing.headers == {"Authorization": "Bearer token-1", "User-Agent": AGENT, "Accept": "application/json"}


def test_the_days_of_a_token_are_not_lost(tmp_path: Path) -> None:
    """Nothing is documented; should the token endpoint say how long the refresh token lasts, `doctor` knows."""
    auth = reddit(token_file=str(tmp_path / "tokens.json")).auth()
    assert auth.left_s() is None
    auth.ready(lambda *asked: Reply(200, {}, {"access_token": "token-1", "refresh_token_expires_in": 864_000}))
    assert round((auth.left_s() or 0) / 86_400) == 10


# -- audiences ------------------------------------------------------------------------------------------------


def test_create() -> None:
    """`data` around name and type, nothing else; not repeated blindly."""
    audience, [call] = play(reddit(), reddit().create("VIP buyers", "ours"), ok({"data": ENTRY}, 201))
    assert (call.method, call.path, call.safe) == ("POST", ACCOUNT, False)
    assert json.loads(str(call.body)) == {"data": {"name": "VIP buyers", "type": "CUSTOMER_LIST"}}
    assert audience == LIST


def test_find_follows_the_pages_and_compares_again() -> None:
    """`=` asks for an exact name; other names, other types and deleted ones are left out."""
    following = "https://ads-api.reddit.com/api/v3/next?page.token=x%3D"
    first = {
        "data": [
            {**ENTRY, "id": "ca.3", "name": "VIP buyers 2"},
            {**ENTRY, "id": "ca.4", "type": "PIXEL_RETARGETING"},
            {**ENTRY, "id": "ca.5", "status": "DELETED"},
        ],
        "pagination": {"next_url": following, "previous_url": None},
    }
    second = {"data": [{**ENTRY, "status": "VALID"}], "pagination": {"next_url": None}}
    found, calls = play(reddit(), reddit().find("ours", "VIP buyers"), ok(first), ok(second))
    assert found == [LIST]
    assert [(call.path, dict(call.query)) for call in calls] == [
        (ACCOUNT, {"name": "=VIP buyers", "page.size": "100"}),
        (following, {}),
    ]


def test_a_next_page_at_another_host_is_not_asked() -> None:
    """It would be asked without credentials, or tell somebody else of them."""
    page = {"data": [], "pagination": {"next_url": "https://elsewhere.example/api/v3/next"}}
    with pytest.raises(DestinationError, match="another host"):
        play(reddit(), reddit().find("ours", "VIP buyers"), ok(page))


def test_a_listing_without_end_is_not_read_for_ever() -> None:
    """A page that names itself, or an earlier one, as the next."""
    pages = [f"https://ads-api.reddit.com/api/v3/next?page.token={token}" for token in ("x", "y", "x")]
    answers = [ok({"data": [], "pagination": {"next_url": page}}) for page in pages]
    with pytest.raises(UnknownError, match="no end"):
        play(reddit(), reddit().find("ours", "VIP buyers"), *answers)


@pytest.mark.parametrize(
    ("entry", "error", "code"),
    [
        ({**ENTRY, "status": "DELETED"}, GoneError, "DELETED"),
        ({**ENTRY, "type": "PIXEL_RETARGETING"}, RefusedError, "type"),
        ({"name": "VIP buyers", "type": "CUSTOMER_LIST"}, UnknownError, "id"),
        ([], UnknownError, "data"),
    ],
)
def test_an_audience_that_takes_no_members(entry: Any, error: type[DestinationError], code: str) -> None:
    """Deleted is gone, other types are refused, and an answer without an id proves nothing."""
    with pytest.raises(error) as caught:
        play(reddit(), reddit().get("ca.25"), ok({"data": entry}))
    assert (type(caught.value), caught.value.code) == (error, code)


def test_an_audience_that_expired() -> None:
    """It is shown, with Reddit's word for its end."""
    (found, _) = play(reddit(), reddit().get("ca.25"), ok({"data": {**ENTRY, "status": "EXPIRED"}}))
    assert found.ended == "EXPIRED"


FAILED = "processing failed at Reddit; if this stays, `dbt-segments sync --full` sends everybody again"
REFUSED_THERE = "refused by Reddit: look at it in the Ads Manager"


@pytest.mark.parametrize(
    ("facts", "size"),
    [
        ({"status": "EXPIRED"}, Size(status="expired", ended="EXPIRED")),
        ({"status": "PENDING", "size_range_lower": 0, "size_range_upper": 0}, Size(status="processing")),
        ({"status": "VALID", "size_range_lower": 1000, "size_range_upper": 1500}, Size(1000, 1500, "ready")),
        ({"status": "NOT_ENOUGH_MATCHES_ERROR", "size_range_upper": 400}, Size(None, 400, "too small to deliver")),
        ({"status": "SERVER_ERROR"}, Size(status="server_error", wrong=FAILED)),
        ({"status": "USER_ERROR"}, Size(status="user_error", wrong=REFUSED_THERE)),
        ({"status": "INVALID_DATA_SOURCE"}, Size(status="invalid_data_source", wrong=REFUSED_THERE)),
        ({"status": "SOMETHING_NEW"}, Size(status="something_new")),
    ],
)
def test_size(facts: dict[str, Any], size: Size) -> None:
    """No figures while Reddit is matching; a range afterwards, and its state in plain words."""
    assert play(reddit(), reddit().size(LIST), ok({"data": {**ENTRY, **facts}}))[0] == size


def test_delete_is_done_where_it_is_gone() -> None:
    """204 and a 404 on the audience are both the end of it."""
    gone = Reply(404, {}, {"error": {"code": 404, "message": "m"}})
    for answer in (ok(None, 204), gone):
        _, [call] = play(reddit(), reddit().delete(LIST), answer)
        assert (call.method, call.path) == ("DELETE", "/custom_audiences/ca.25")


def test_check() -> None:
    """What the platform says: credentials and account; the scope for writing shows only when something is written."""
    findings, [call] = play(reddit(), reddit().check(), ok({"data": []}))
    assert (call.method, call.path, dict(call.query)) == ("GET", ACCOUNT, {"page.size": "1"})
    assert [(one.what, one.good) for one in findings] == [("credentials", True), ("account", True), ("scopes", None)]
    for status, what in ((403, "credentials"), (404, "account")):
        answer = Reply(status, {}, {"error": {"code": status, "message": "m"}})
        [finding], _ = play(reddit(), reddit().check(), answer)
        assert (finding.what, finding.good, bool(finding.hint)) == (what, False, True)


# -- members --------------------------------------------------------------------------------------------------

# The body of "Update Custom Audience Users", as its OpenAPI 3.1 description has it.
_CELLS = {"items": {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "type": "array"}
_WIDTH = {
    "if": {"properties": {"column_order": {"maxItems": 1}}},
    "then": {"properties": {"user_data": {"items": {"minItems": 1, "maxItems": 1}}}},
    "else": {"properties": {"user_data": {"items": {"minItems": 2, "maxItems": 2}}}},
}
_DATA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["action_type", "column_order", "user_data"],
    "properties": {
        "action_type": {"enum": ["ADD", "REMOVE"]},
        "column_order": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "uniqueItems": True,
            "items": {"enum": ["EMAIL_SHA256", "MAID_SHA256"]},
        },
        "user_data": {"type": "array", "minItems": 1, "maxItems": 2_500, "items": _CELLS},
    },
    **_WIDTH,
}
BODY = {"type": "object", "additionalProperties": False, "required": ["data"], "properties": {"data": _DATA}}


@pytest.mark.parametrize(
    ("op", "kind", "action", "column"),
    [
        (Op.ADD, "email", "ADD", "EMAIL_SHA256"),
        (Op.REMOVE, "email", "REMOVE", "EMAIL_SHA256"),
        (Op.ADD, "idfa", "ADD", "MAID_SHA256"),
        (Op.REMOVE, "aaid", "REMOVE", "MAID_SHA256"),
        (Op.ADD, "maid", "ADD", "MAID_SHA256"),
    ],
)
def test_push(op: Op, kind: str, action: str, column: str) -> None:
    """One column a request, rows as wide as it, in the shape of Reddit's own description; 204 accepts all of them."""
    outcome, [call] = play(reddit(), reddit().push(LIST, batch(op, kind=kind, rows=(ALICE, _IDFA))), ok(None, 204))
    assert outcome == Outcome()
    assert (call.method, call.path) == ("PATCH", "/custom_audiences/ca.25/users")
    body = json.loads(str(call.body))
    jsonschema.Draft202012Validator(BODY).validate(body)
    assert body["data"] == {"action_type": action, "column_order": [column], "user_data": [[ALICE], [_IDFA]]}


# -- faults ---------------------------------------------------------------------------------------------------


def refusal(status: int, reason: str | None = None, fields: tuple[str, ...] = ()) -> Reply:
    error: dict[str, Any] = {"code": status, "message": "for alice@example.com"}
    if reason:
        error["reason"] = reason
    if fields:
        error["fields"] = [{"field": name, "message": "alice@example.com"} for name in fields]
    return Reply(status, {}, {"error": error})


FAULTS = [
    (USERS, refusal(400, "BAD_REQUEST"), RefusedError, "400/BAD_REQUEST", False, False),
    (USERS, refusal(400, fields=("data.column_order",)), RefusedError, "400", False, False),
    (USERS, refusal(401, "UNAUTHORIZED"), AuthError, "401/UNAUTHORIZED", False, True),
    (USERS, Reply(401, {}, "Authorization Required"), AuthError, "401", False, True),
    (USERS, refusal(403), AuthError, "403", False, False),
    (USERS, refusal(404, "NOT_FOUND"), GoneError, "404/NOT_FOUND", False, False),
    (GET, refusal(404), GoneError, "404", False, False),
    (Call("POST", ACCOUNT), refusal(404), AuthError, "404", False, False),
    (USERS, Reply(404, {}, None), RefusedError, "404", False, False),
    (USERS, refusal(410), RefusedError, "410", False, False),
    (USERS, refusal(429), TransientError, "429", True, False),
    (USERS, refusal(500), UnknownError, "500", True, False),
    (USERS, Reply(503, {}, None), UnknownError, "503", True, False),
    (USERS, Reply(408, {}, None), UnknownError, "408", True, False),
    (USERS, ok(None), UnknownError, "200", True, False),
    (USERS, ok({"data": {}}), UnknownError, "200", True, False),
    (GET, ok(None), UnknownError, "200", True, False),
    (GET, ok({"success": True}), UnknownError, "200", True, False),
]


@pytest.mark.parametrize(("call", "reply", "error", "code", "retry", "renew"), FAULTS)
def test_faults(call: Call, reply: Reply, error: type[DestinationError], code: str, retry: bool, renew: bool) -> None:
    """Every row of the table of errors; of Reddit's words only the reason is kept."""
    fault = reddit().fault(call, reply)
    assert fault is not None
    assert (type(fault.error), fault.error.code, fault.retry, fault.renew) == (error, code, retry, renew)
    assert "alice" not in f"{fault.error} {fault.error.hint}"


def test_a_403_names_all_three_causes() -> None:
    """The platform does not tell which."""
    fault = reddit().fault(USERS, refusal(403))
    assert fault is not None
    assert all(word in str(fault.error.hint) for word in ("adsedit", "not enabled", "user_agent"))


def test_rows_that_are_blamed_are_looked_for_in_halves() -> None:
    """Only where the error names `user_data`."""
    blamed = reddit().fault(USERS, refusal(400, fields=("data.user_data[3]",)))
    other = reddit().fault(USERS, refusal(400, fields=("data.action_type",)))
    assert [isinstance(one.error, RefusedError) and one.error.divisible for one in (blamed, other) if one] == [
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("", None),
        ('"ads-custom-audience-ingestion";r=2999;t=899', None),
        ('"ads-custom-audience-ingestion";r=0;t=120, "ads-custom-audience-ingestion-burst";r=3;t=5', 120.0),
        ('"a";r=0;t=12, "b";r=0;t=30', 30.0),
        ("nonsense", None),
    ],
)
def test_pace(header: str, wait_s: float | None) -> None:
    """An allowance that is used up is waited for, the longest first; a throttled call waits as long."""
    headers = {"ratelimit": header} if header else {}
    assert reddit().pace(Reply(204, headers)) == wait_s
    fault = reddit().fault(USERS, Reply(429, headers, None))
    assert fault is not None
    assert fault.wait_s == wait_s


def test_a_retry_after_wins(tmp_path: Path) -> None:
    """Reddit documents none, and only the headers of its allowances; what comes all the same is kept in full."""
    waits: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/access_token"):
            return httpx.Response(200, json={"access_token": "token-1", "expires_in": 3600})
        headers = {"RateLimit": '"ads-custom-audience-ingestion";r=0;t=2', "Retry-After": "30"}
        return httpx.Response(204) if waits else httpx.Response(429, headers=headers)

    transport = httpx.MockTransport(answer)
    destination = reddit(token_file=str(tmp_path / "tokens.json"))
    with Sender(destination, transport=transport, sleep=waits.append, clock=lambda: sum(waits)) as sender:
        assert sender.send(LIST, batch()).fate == "accepted"
    assert sum(waits) >= 30


# -- against the sandbox --------------------------------------------------------------------------------------


@pytest.fixture
def serving() -> Iterator[Serving]:
    with serve(sandbox=build(("reddit",))) as one:
        yield one


def connected(serving: Serving, folder: Path, **changes: Any) -> Reddit:
    url = f"{serving.url}/reddit/api"
    own = {"client_id": "sandbox-client", "client_secret": "sandbox-secret", "refresh_token": "sandbox-refresh"}
    place = {"base_url": url, "token_url": f"{url}/v1/access_token", "token_file": str(folder / "tokens.json")}
    return reddit(**{**own, **place, **changes})


def test_the_sandbox_is_found_through_all_pages(serving: Serving, tmp_path: Path) -> None:
    """Made, found again behind two pages of namesakes, sized, deleted; each call with a token and our own name."""
    destination = connected(serving, tmp_path)
    serving.sandbox.platforms["reddit"].policy["largest_page"] = 2
    with Sender(destination) as sender:
        made = [sender.play(destination.create("VIP buyers", "")) for _ in range(5)]
        found = sender.play(destination.find("", "VIP buyers"))
        assert [one.id for one in found] == [one.id for one in made]
        assert sender.play(destination.get(made[0].id)) == made[0]
        assert sender.play(destination.size(made[0])).status == "too small to deliver"
        assert [one.good for one in sender.play(destination.check())] == [True, True, None]
        sender.play(destination.delete(made[0]))
        with pytest.raises(GoneError):
            sender.play(destination.get(made[0].id))
        assert len(sender.play(destination.find("", "VIP buyers"))) == 4
    assert serving.state()["violations"]["reddit"] == []


def test_an_allowance_that_is_used_up_is_waited_for(tmp_path: Path) -> None:
    """The headers of the last good answer say so; the next call waits, and no 429 is needed."""
    # Only the sleep moves the sandbox's time: else a new window could begin between two calls.
    clock = Clock(lambda: 1_700_000_000.0)
    waits: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        waits.append(seconds)
        now += seconds
        clock.advance(seconds + 1)

    with serve(sandbox=build(("reddit",), clock)) as serving:
        serving.sandbox.platforms["reddit"].policy["quotas"] = {"ads-targeting-taxonomy": 2}
        destination = connected(serving, tmp_path, requests_per_s=1000)
        with Sender(destination, sleep=sleep, clock=lambda: now) as sender:
            for _ in range(3):
                sender.play(destination.find("", "VIP buyers"))
    assert max(waits) >= 1
    assert 429 not in {call["status"] for call in serving.sandbox.calls}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE]]}, 204),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256", "MAID_SHA256"], "user_data": [[ALICE, _IDFA]]}, 204),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE, _IDFA]]}, 400),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256", "MAID_SHA256"], "user_data": [[ALICE]]}, 400),
        ({"action_type": "ADD", "column_order": ["MAID_SHA256", "MAID_SHA256"], "user_data": [[_IDFA, _IDFA]]}, 400),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE.upper()]]}, 400),
        ({"action_type": "ADD", "column_order": ["PHONE_SHA256"], "user_data": [[ALICE]]}, 400),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE]] * 2_501}, 400),
        ({"action_type": "ADD", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE]], "more": 1}, 400),
        ({"action_type": "REPLACE", "column_order": ["EMAIL_SHA256"], "user_data": [[ALICE]]}, 400),
        ({"column_order": ["EMAIL_SHA256"], "user_data": [[ALICE]]}, 400),
    ],
)
def test_the_sandbox_is_as_strict_as_the_schema(serving: Serving, body: Any, status: int) -> None:
    """It takes what Reddit's description allows and refuses the rest: all rows or none."""
    url = f"{serving.url}/reddit/api"
    with httpx.Client(headers={"User-Agent": AGENT}) as client:
        form = {"grant_type": "refresh_token", "refresh_token": "sandbox-refresh"}
        token = client.post(f"{url}/v1/access_token", data=form, auth=("sandbox-client", "sandbox-secret")).json()
        client.headers["Authorization"] = f"Bearer {token['access_token']}"
        create = {"data": {"name": "VIP", "type": "CUSTOMER_LIST"}}
        made = client.post(f"{url}/v3/ad_accounts/a2_shop/custom_audiences", json=create).json()["data"]["id"]
        assert client.patch(f"{url}/v3/custom_audiences/{made}/users", json={"data": body}).status_code == status
    assert bool(serving.state()["audiences"][0]["keys"]) == (status == 204)
    assert jsonschema.Draft202012Validator(BODY).is_valid({"data": body}) == (status == 204)


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"User-Agent": "python-httpx/0.28"}, 403), ({"User-Agent": AGENT}, 401), ({"User-Agent": ""}, 403)],
)
def test_the_sandbox_blocks_libraries_and_strangers(serving: Serving, headers: dict[str, str], status: int) -> None:
    """A generic User-Agent is a 403 before anything else is looked at; without a token it is a 401."""
    url = f"{serving.url}/reddit/api/v3/custom_audiences/ca.1"
    assert httpx.get(url, headers=headers).status_code == status


@pytest.mark.parametrize("query", [{"page.size": "x"}, {"page.size": "0"}, {"page.token": "-1"}, {"name": "VIP"}])
def test_a_listing_that_is_asked_for_wrongly(serving: Serving, tmp_path: Path, query: dict[str, str]) -> None:
    """A 400 in Reddit's shape."""
    destination = connected(serving, tmp_path)

    def flow() -> Flow[Reply]:
        return (yield Call("GET", ACCOUNT, query))

    with Sender(destination) as sender, pytest.raises(RefusedError) as caught:
        sender.play(flow())
    assert caught.value.code == "400/BAD_REQUEST"


def test_the_version_that_has_ended(serving: Serving, tmp_path: Path) -> None:
    """v2 answers 410, and that is what is said of it."""
    destination = connected(serving, tmp_path, api_version="v2.0")
    with Sender(destination) as sender, pytest.raises(RefusedError, match="version has ended") as caught:
        sender.play(destination.check())
    assert caught.value.code == "410/GONE"


def test_a_refresh_token_that_is_replaced_is_kept(serving: Serving, tmp_path: Path) -> None:
    """Where Reddit answers with another one, the next run begins with it."""
    serving.sandbox.platforms["reddit"].policy["rotates"] = True
    for _ in range(3):
        destination = connected(serving, tmp_path)
        with Sender(destination) as sender:
            assert sender.play(destination.find("", "VIP buyers")) == []


def test_who_has_several_identifiers(serving: Serving, tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> None:
    """E-mails and mobile ids go apart; a mobile id that changes is removed, and its owner stays in by e-mail."""
    world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
    world.identifiers = {"email": "email", "idfa": "phone", "aaid": "country"}
    world.connections = {"reddit": CASE.connection(f"{serving.url}/reddit", tmp_path)}
    world.segments = {"vip": {"label": "VIP buyers", "destinations": ["reddit"]}}
    world.customers([(1, "alice@example.com", IDFA, AAID), (2, None, None, AAID), (3, "bob@example.com", "0" * 32)])
    world.segment([1, 2, 3])
    bob = ("EMAIL_SHA256", sha("bob@example.com"))
    assert world.sync().status == "success"
    assert world.held() == {("EMAIL_SHA256", ALICE), ("MAID_SHA256", _IDFA), ("MAID_SHA256", _AAID), bob}
    assert [(call["op"], call["rows"]) for call in world.calls() if call["op"] == "add"] == [
        ("add", 2),
        ("add", 3),
    ]
    world.customers([(1, "alice@example.com", None, AAID), (2, None, None, AAID), (3, "bob@example.com")])
    world.segment([1, 3])
    assert world.sync().status == "success"
    assert world.held() == {("EMAIL_SHA256", ALICE), ("MAID_SHA256", _AAID), bob}
    assert serving.state()["violations"]["reddit"] == []


@pytest.mark.parametrize(
    ("status", "said"),
    [("USER_ERROR", REFUSED_THERE), ("INVALID_DATA_SOURCE", REFUSED_THERE), ("SERVER_ERROR", FAILED), ("VALID", "")],
)
def test_a_list_that_reddit_cannot_use_is_told(
    serving: Serving,
    tmp_path: Path,
    duckdb_warehouse: DuckDBWarehouse,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    said: str,
) -> None:
    """In each result and in `status`, although nothing has to be sent; nothing is held or made anew for it."""
    monkeypatch.setattr(sizes, "settles_after", lambda cls: timedelta(hours=-2))
    world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
    world.connections = {"reddit": CASE.connection(f"{serving.url}/reddit", tmp_path)}
    world.segments = {"vip": {"label": "VIP buyers", "destinations": ["reddit"]}}
    world.customers([(1, "alice@example.com")])
    world.segment([1])
    # The size is asked for at the end of the run, and once a day.
    made = serving.sandbox.platforms["reddit"]
    made.policy["statuses"] = {f"ca.{2548235726874894000 + number}": status for number in range(5)}
    assert world.sync().status == "success"
    result = world.sync()
    (line,) = pipeline.status(world.request()).syncs
    assert result.status == "noop"
    for notes in (result.notes, line.notes):
        assert [note for note in notes if "Reddit" in note] == (
            [f"warning: shop.vip.reddit: audience {result.audience_id} (VIP buyers): {said}"] if said else []
        )


class TestContract(DestinationContract):
    """Against the sandbox, which is asked over HTTP."""

    secrets = ("sandbox-secret", "sandbox-refresh")
    fields = ("email",)

    @pytest.fixture(autouse=True)
    def _platform(self, serving: Serving, tmp_path: Path) -> Iterator[None]:
        with httpx.Client(headers={"User-Agent": "test"}) as client:
            self.serving, self.client, self.folder = serving, client, tmp_path
            yield

    def destination(self) -> Reddit:
        return connected(self.serving, self.folder)

    def answer(self, request: httpx.Request) -> httpx.Response:
        answer = self.client.send(
            httpx.Request(request.method, request.url, headers=request.headers, content=request.content)
        )
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def audience(self, sender: Sender) -> Audience:
        return sender.play(self.destination().create("VIP", ""))

    def row(self, number: int, op: Op) -> str:
        return json.dumps([sha(f"{number}@example.com")])

    def held(self) -> list[int]:
        numbers = {sha(f"{number}@example.com"): number for number in range(3_000)}
        return [numbers[value] for audience in self.serving.state()["audiences"] for _, value in audience["keys"]]
