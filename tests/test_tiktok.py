"""The TikTok destination: what it sends, what it makes of answers, and what a whole sync leaves in the sandbox.

Expectations are typed from TikTok's API for Business v1.3 (segment endpoints, custom audience list and get, "Return
codes") and its help centre ("List of supported IDs and formats", September 2025), read 2026-11.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest
from pydantic import ValidationError

from dbt_segments import pipeline, sizes
from dbt_segments.destinations.auth import Outgoing
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size
from dbt_segments.destinations.tiktok import TikTok, TikTokSettings
from dbt_segments.errors import (
    AuthError,
    ConfigError,
    DestinationError,
    GoneError,
    RefusedError,
    TransientError,
    UnknownError,
)
from dbt_segments.identifiers.attempt import attempt
from dbt_segments.sandbox.server import build, serve
from tests.one_click.case_tiktok import CASE
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world, sha

T = TypeVar("T")
ADVERTISER = "7000000000000000001"
AUDIENCE = Audience("167290896", "VIP", "", ADVERTISER)
MAPPING = Call("POST", "/segment/mapping/")
LIST = Call("GET", "/dmp/custom_audience/list/")
CREATE = Call("POST", "/segment/audience/", safe=False)
HEX = "86e0b9e56c17cc4d12387e1949b85053fbe73bc3ce5a1188713a9d300cc6133d"


def tiktok(**settings: Any) -> TikTok:
    return TikTok(TikTokSettings(**{"advertiser_id": ADVERTISER, "access_token": "token-1", **settings}))


def ok(data: Any = None, code: int = 0) -> Reply:
    return Reply(200, {}, {"code": code, "message": "OK", "request_id": "r", "data": data if data is not None else {}})


def play(flow: Flow[T], *replies: Reply | DestinationError) -> tuple[T, list[Call]]:
    """The flow's result and its calls, each answered in turn, or given an error."""
    calls, answers = [], iter(replies)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            answer = next(answers)
            call = flow.throw(answer) if isinstance(answer, DestinationError) else flow.send(answer)
    except StopIteration as end:
        assert next(answers, None) is None, "more replies than calls"
        return end.value, calls


def batch(op: Op = Op.ADD, rows: str = "", fields: tuple[str, ...] = ("email", "phone")) -> Batch:
    rows = rows or f'[{{"id":"{HEX}","audience_ids":["?"]}},{{}}]'
    return Batch(op, rows, 1, 1, True, 1, "g1-b1", 1, fields)


# -- identifiers ----------------------------------------------------------------------------------------------

LONDON = "e631c2534428c6c9b48c2167604a8983046085e43a2c00ed748733c544c0bb4d"
APPLE = "83dc3f5f32b9472613b0f038d36f22585a609d018af6f6067f50da318bf354bd"
ANDROID = "6cd6140c54b2741b81b0099b232a3ddaeed82df456f43563574877baec22b632"
# TikTok's rules: identifier, raw, row's country, what is sent.
SENT = [
    ("email", " Jane.Doe@Example.com ", None, HEX),
    ("email", "J.Doe+News@Gmail.com", None, "a381164d961568fd2d50633268b5430ee56b338246ac900101d161dfae1236c1"),
    ("email", "JaneDoe@gmail.com", None, "d6117306485ed0e50afab3ac871e98f81699151f30281527d63ff5f233656c69"),
    ("email", "jane .doe@ example.com", None, HEX),
    ("email", HEX.upper(), None, HEX),
    ("email_sha256", "jane.doe@example.com", None, HEX),
    ("phone", "+44 20 7183 8750", None, LONDON),
    ("phone", "+44 (0)20 7183 8750", None, LONDON),
    ("phone", "020 7183 8750 ext. 5", "GB", LONDON),
    ("phone", "\uff0b\uff14\uff14 20 7183 8750", None, LONDON),
    ("phone", "(202) 555-0123", "US", "d5ab8b77e69a81dfc634c3556c620d5d6753df6fc28c73c88c79a9332b705382"),
    ("phone", f" {HEX.upper()} ", None, HEX),
    ("idfa", "5F3A2B18-9C4D-4E7F-B8E2-17D3A1E69B25", None, APPLE),
    ("aaid", "EA7583CD-A667-48BC-B806-42ECB2B48606", None, ANDROID),
    ("maid", "EA7583CD-A667-48BC-B806-42ECB2B48606", None, ANDROID),
    ("idfa", HEX.upper(), None, HEX),
]  # fmt: skip
NOT_SENT = [
    ("email", "a@example.com;b@example.com", "email_invalid"),
    ("email", "a" * 32, "email_invalid"),
    ("email", "a" * 40, "email_invalid"),
    ("email", "a" * 63, "email_invalid"),
    ("email", " \u3000", "absent"),
    ("phone", "+", "phone_no_digits"),
    ("phone", "020 7183 8750", "phone_no_country"),
    ("phone", "4.42E+11", "number_text"),
    ("idfa", "00000000-0000-0000-0000-000000000000", "maid_zero"),
    ("aaid", "0" * 32, "maid_zero"),
    ("aaid", "EA7583CDA66748BCB80642ECB2B48606", "maid_invalid"),
    ("idfa", "jane@example.com", "maid_invalid"),
    ("first_name", "Jane", "identifier_not_taken"),
    ("country", "US", "identifier_not_taken"),
]


def tried(identifier: str, value: str, country: str | None = None) -> dict[str, Any]:
    rules = {name: accept.rule for name, accept in TikTok.identifiers.items()}
    synonyms = {accept.field.lower(): name for name, accept in TikTok.identifiers.items()}
    row = {"identifier": identifier, "value": value, "country": country}
    (answer,) = attempt([row], rules, synonyms=synonyms)
    return answer


@pytest.mark.parametrize(("identifier", "raw", "country", "sent"), SENT)
def test_what_is_sent(identifier: str, raw: str, country: str | None, sent: str) -> None:
    """Nothing travels in clear; a phone keeps its `+`, a device id is hashed in lower case."""
    answer = tried(identifier, raw, country)
    assert (answer["sent"], answer["hashed"], answer["reason"]) == (sent, True, None)


@pytest.mark.parametrize(("identifier", "raw", "reason"), NOT_SENT)
def test_what_is_not_sent(identifier: str, raw: str, reason: str) -> None:
    """Left out with a reason, never guessed or repaired."""
    answer = tried(identifier, raw)
    assert (answer["sent"], answer["reason"]) == (None, reason)


@pytest.mark.parametrize(("email", "phone"), [("aa", "bb"), ("aa", None), (None, "bb")])
def test_each_identifier_keeps_its_place(email: str | None, phone: str | None) -> None:
    """A missing one is `{}`: a shifted row would file a phone as an e-mail. The audience's id is put in by `push`."""
    con = duckdb.connect()
    con.execute("create table p as select ? as email, ? as phone", [email, phone])
    cells = {name: f"('\"' || {name} || '\"')" for name in ("email", "phone")}
    ((row,),) = con.execute(f"select {tiktok().write(Op.ADD, cells)} from p").fetchall()
    _, (call,) = play(tiktok().push(AUDIENCE, batch(rows=row)), ok())
    place = {"audience_ids": [AUDIENCE.id]}
    assert json.loads(call.body or "") == {
        "advertiser_ids": [ADVERTISER],
        "action": "add",
        "id_schema": ["EMAIL_SHA256", "PHONE_SHA256"],
        "batch_data": [[{"id": value, **place} if value else {} for value in (email, phone)]],
    }


# -- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({}, "https://business-api.tiktok.com/open_api/v1.3"),
        ({"base_url": "http://127.0.0.1:8199/tiktok/"}, "http://127.0.0.1:8199/tiktok/open_api/v1.3"),
        ({"base_url": "https://sandbox-ads.tiktok.com/open_api"}, "https://sandbox-ads.tiktok.com/open_api/v1.3"),
        ({"api_version": "v1.4"}, "https://business-api.tiktok.com/open_api/v1.4"),
    ],
)
def test_root(settings: dict[str, str], root: str) -> None:
    """The version is in the path; `/open_api` may be written or not."""
    assert tiktok(**settings).root() == root


def test_the_token_is_in_tiktoks_own_header() -> None:
    """Not `Authorization`, and without `Bearer`."""
    outgoing = Outgoing("POST")
    tiktok().auth().apply(outgoing)
    assert outgoing.headers == {"Access-Token": "token-1"}


def test_the_advertiser_is_a_text() -> None:
    """19 digits survive as a text; anything but digits is refused."""
    assert tiktok(advertiser_id=7000000000000000001).account() == ADVERTISER
    with pytest.raises(ValidationError):
        tiktok(advertiser_id="act_7")


def test_every_path_ends_with_a_slash() -> None:
    """Without it TikTok answers 404."""
    flows: list[Flow[Any]] = [
        tiktok().find("", "x"),
        tiktok().get("1"),
        tiktok().create("x", ""),
        tiktok().size(AUDIENCE),
        tiktok().delete(AUDIENCE),
        tiktok().push(AUDIENCE, batch()),
        tiktok().check(),
    ]
    assert all(next(flow).path.endswith("/") for flow in flows)


# -- answers --------------------------------------------------------------------------------------------------

# call, code, message, error, tried again, seconds to wait, worth halving
CODES: list[tuple[Call, int, str, type[DestinationError], bool, float | None, bool]] = [
    (MAPPING, 40100, "QPS limit reached", TransientError, True, None, False),
    (MAPPING, 40016, "QPM limit reached", TransientError, True, 300.0, False),
    (MAPPING, 40100, "QPD limit reached", TransientError, False, None, False),
    (MAPPING, 40133, "", TransientError, True, 10.0, False),
    (MAPPING, 40202, "", TransientError, True, None, False),
    (MAPPING, 40201, "", TransientError, True, None, False),
    *[(MAPPING, code, "", UnknownError, True, None, False) for code in (50000, 50002, 51010, 52001, 60001, 61000)],
    *[(MAPPING, code, "", AuthError, False, None, False) for code in (40102, 40104, 40105, 40106, 40107)],
    *[(LIST, code, "", AuthError, False, None, False) for code in (40001, 40118, 40119, 40125)],
    (MAPPING, 40002, "invalid", RefusedError, False, None, True),
    (MAPPING, 40000, "invalid", RefusedError, False, None, True),
    (LIST, 40002, "invalid", RefusedError, False, None, False),
    (MAPPING, 40002, "The audience is Processing", TransientError, False, None, False),
    (MAPPING, 40007, "", GoneError, False, None, False),
    (MAPPING, 40062, "", DestinationError, False, None, False),
    (MAPPING, 40011, "", RefusedError, False, None, True),
    (MAPPING, 40061, "", RefusedError, False, None, True),
    *[(MAPPING, code, "", RefusedError, False, None, False) for code in (40006, 40051, 41001, 40905, 49999)],
    (CREATE, 40050, "", UnknownError, False, None, False),
    (CREATE, 20001, "", UnknownError, False, None, False),
]


@pytest.mark.parametrize(("call", "code", "said", "kind", "retry", "wait_s", "divisible"), CODES)
def test_codes(
    call: Call, code: int, said: str, kind: type[DestinationError], retry: bool, wait_s: float | None, divisible: bool
) -> None:
    """Code by code as TikTok lists them, with HTTP 200; no message is shown."""
    fault = tiktok().fault(call, Reply(200, {}, {"code": code, "message": f"{said} jane@example.com", "data": {}}))
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.wait_s) == (kind, retry, wait_s)
    assert getattr(fault.error, "divisible", False) == divisible
    assert fault.error.code == str(code)
    assert "jane" not in f"{fault.error!r} {fault.error.hint}"


@pytest.mark.parametrize(
    ("reply", "kind", "retry"),
    [
        (Reply(500, {}, None), UnknownError, True),
        (Reply(503, {}, {"code": 0, "data": {}}), UnknownError, True),
        (Reply(429, {}, None), TransientError, True),
        (Reply(401, {}, None), AuthError, False),
        (Reply(404, {}, None), RefusedError, False),
        (Reply(200, {}, None, empty=True), UnknownError, True),
        (Reply(200, {}, {"code": "0"}), UnknownError, True),
        (Reply(502, {}, {"code": 49999}), UnknownError, True),
    ],
)
def test_answers_that_are_not_tiktoks(reply: Reply, kind: type[DestinationError], retry: bool) -> None:
    """Without a code the status says what it is; a 200 without one proves nothing."""
    fault = tiktok().fault(MAPPING, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry) == (kind, retry)


def test_a_partial_success_is_not_clean() -> None:
    """Some rows were refused, and TikTok does not say which: at least one."""
    for code, outcome in ((0, Outcome()), (20001, Outcome(unattributed=1)), (40050, Outcome())):
        assert tiktok().fault(MAPPING, ok(code=code)) is None
        assert play(tiktok().push(AUDIENCE, batch()), ok(code=code))[0] == outcome


def test_removal() -> None:
    """The same rows with the other action."""
    _, (call,) = play(tiktok().push(AUDIENCE, batch(Op.REMOVE, fields=("idfa", "aaid"))), ok())
    body = json.loads(call.body or "")
    assert (body["action"], body["id_schema"]) == ("delete", ["IDFA_SHA256", "AAID_SHA256"])


# -- audiences ------------------------------------------------------------------------------------------------


def page(*entries: tuple[int, str], pages: int = 1) -> Reply:
    found = [{"audience_id": str(number), "name": name} for number, name in entries]
    return ok({"page_info": {"total_page": pages}, "list": found})


def test_find_reads_every_page_and_compares_whole_names() -> None:
    """Names are not unique: all of them are found, and the caller decides."""
    replies = page((9, "VIP"), (12, "VIP 2"), pages=2), page((11, "vip"), (100, "VIP"), pages=2)
    found, calls = play(tiktok().find("dbt-segments:", "VIP"), *replies)
    assert found == [Audience("9", "VIP", "", ADVERTISER), Audience("100", "VIP", "", ADVERTISER)]
    assert [dict(call.query) for call in calls] == [
        {"advertiser_id": ADVERTISER, "page": number, "page_size": "100"} for number in ("1", "2")
    ]


@pytest.mark.parametrize(
    "data", [{}, {"list": []}, {"list": [], "page_info": []}, {"list": None, "page_info": {"total_page": 1}}]
)
def test_a_listing_that_cannot_be_read_proves_nothing(data: dict[str, Any]) -> None:
    """It does not mean that there is no audience of that name, of which a second one would be made."""
    with pytest.raises(UnknownError):
        play(tiktok().find("", "VIP"), ok(data))
    entries = {"list": [None, {"audience_id": "9", "name": "VIP"}], "page_info": {"total_page": 1}}
    assert [one.id for one in play(tiktok().find("", "VIP"), ok(entries))[0]] == ["9"]


def test_create() -> None:
    """An empty audience, at once."""
    made, (call,) = play(tiktok().create("VIP", "mark"), ok({"audience_id": AUDIENCE.id}))
    assert (made, call.safe) == (AUDIENCE, False)
    assert json.loads(call.body or "") == {
        "advertiser_id": ADVERTISER,
        "action": "create",
        "custom_audience_name": "VIP",
    }
    with pytest.raises(UnknownError):
        play(tiktok().create("VIP", "mark"), ok({}))


def details(**changes: Any) -> Reply:
    entry = {"audience_id": AUDIENCE.id, "name": "VIP", "cover_num": 1400, "is_valid": True, "is_expiring": False}
    return ok({"list": [{"audience_details": {**entry, **changes}}]})


def test_get() -> None:
    """Ids are a JSON list of texts; what is not in the answer is gone."""
    found, (call,) = play(tiktok().get(AUDIENCE.id), details())
    assert found == AUDIENCE
    assert dict(call.query) == {"advertiser_id": ADVERTISER, "custom_audience_ids": '["167290896"]'}
    for reply in (ok({"list": []}), details(audience_id="1")):
        with pytest.raises(GoneError):
            play(tiktok().get(AUDIENCE.id), reply)


@pytest.mark.parametrize(
    ("changes", "ended"),
    [
        ({"is_valid": False, "expired_time": "2026-11-01 00:00:00"}, "expired"),
        ({"is_valid": False, "expired_time": "2026-11-09 13:00:00"}, ""),
        ({"is_valid": False, "expired_time": "2027-11-01 00:00:00"}, ""),
        ({"is_valid": False, "expired_time": "someday"}, ""),
        ({"is_valid": False}, ""),
        ({"is_valid": True, "expired_time": "2026-11-01 00:00:00"}, ""),
    ],
)
def test_an_audience_has_ended_only_once_its_last_day_is_over(changes: dict[str, Any], ended: str) -> None:
    """A young or small one is not valid either; the answer says what day it is, and a day is left for time zones."""
    reply = dataclasses.replace(details(**changes), headers={"date": "Tue, 10 Nov 2026 12:00:00 GMT"})
    assert play(tiktok().get(AUDIENCE.id), reply)[0].ended == ended
    assert play(tiktok().get(AUDIENCE.id), details(**changes))[0].ended == ""


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, Size(1400, 1400, "ready")),
        ({"is_expiring": True}, Size(1400, 1400, "expiring")),
        ({"is_valid": False}, Size(1400, 1400, "not usable")),
        ({"cover_num": 0, "is_valid": False}, Size(None, None, "processing")),
        ({"cover_num": None}, Size(None, None, "processing")),
        ({"error_msg": "no ids"}, Size(status="failed", wrong="refused by TikTok: look at it in the Ads Manager")),
    ],
)
def test_size(changes: dict[str, Any], size: Size) -> None:
    """Matched people; 0 means nothing until it is processed."""
    assert play(tiktok().size(AUDIENCE), details(**changes))[0] == size


def test_delete_and_check() -> None:
    """An audience that is gone needs no deletion; a check only reads."""
    _, (call,) = play(tiktok().delete(AUDIENCE), GoneError("x"))
    assert json.loads(call.body or "")["delete_audience_id"] == AUDIENCE.id
    good, (call,) = play(tiktok().check(), page())
    assert (call.method, [(one.what, one.good) for one in good]) == (
        "GET",
        [("credentials", True), ("account", True), ("scopes", None)],
    )
    bad, _ = play(tiktok().check(), AuthError("tiktok: permission refused", hint="grant it"))
    assert [(one.good, one.hint) for one in bad] == [(False, "grant it")]
    bad, _ = play(tiktok().check(), RefusedError("tiktok: a parameter is wrong"))
    assert [(one.what, one.good, one.hint) for one in bad] == [("account", False, "is `advertiser_id` right?")]
    with pytest.raises(TransientError):  # says nothing of the account
        play(tiktok().check(), TransientError("tiktok: throttled"))


# -- against the sandbox --------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[World]:
    with serve(sandbox=build(("tiktok",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {"tiktok": CASE.connection(f"{serving.url}/tiktok", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": ["tiktok"]}}
        world.customers([(1, "ada@example.com"), (2, "bob@example.com")])
        world.segment([1, 2])
        yield world
        assert serving.state()["violations"]["tiktok"] == []


def test_device_ids_by_their_system(world: World) -> None:
    """`os:` says whether a column holds Apple's or Android's ids; the two are different fields."""
    world._table(
        "customers",
        "customer_id integer, phone_id varchar, system varchar",
        [(1, "5F3A2B18-9C4D-4E7F-B8E2-17D3A1E69B25", "x"), (2, "00000000-0000-0000-0000-000000000000", "x")],
    )
    world.identifiers = {"maid": {"column": "phone_id", "os": "ios"}}
    result = world.sync()
    assert (result.counts.added, result.counts.unusable) == (1, 1)
    assert world.held() == {("IDFA_SHA256", APPLE)}


def test_a_partial_success_ends_a_run_as_partial(world: World) -> None:
    """The run says so with exit code 1."""
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "partial", "match": {"op": "add"}})
    result = world.sync()
    assert (result.status, result.exit_code) == ("partial", 1)


def test_two_audiences_of_one_name_hold_the_sync(world: World) -> None:
    """TikTok takes no mark, so it is not certain whose they are."""
    assert world.serving is not None
    platform = world.serving.sandbox.platforms["tiktok"]
    with world.serving.sandbox.lock:
        for _ in range(2):
            platform._create(None, {"advertiser_id": ADVERTISER, "custom_audience_name": "VIP buyers"})  # type: ignore[attr-defined]
    result = world.sync()
    assert result.status == "held"
    assert "already has an audience of that name" in result.reason
    assert world.calls("add") == []


def test_a_name_that_would_be_cut_is_refused_before_anything_is_sent(world: World) -> None:
    """It says what to do, and a shorter name then works."""
    world.segments = {"vip": {"label": "x" * 71, "destinations": ["tiktok"]}}
    with pytest.raises(ConfigError, match="the audience's name has 71 characters, tiktok takes 70"):
        world.sync()
    assert world.calls() == []
    world.segments = {"vip": {"label": "x" * 70, "destinations": ["tiktok"]}}
    assert world.sync().status == "success"
    assert [one["name"] for one in world.audiences()] == ["x" * 70]


@pytest.mark.parametrize("settled", [False, True])
def test_no_size_after_two_days_is_told(world: World, monkeypatch: pytest.MonkeyPatch, settled: bool) -> None:
    """TikTok says 0 while it processes, and 0 where fewer than 1,000 were matched: after two days it is that."""
    assert world.serving is not None
    world.serving.sandbox.platforms["tiktok"].policy["settled"] = settled
    monkeypatch.setattr(sizes, "settles_after", lambda cls: timedelta(hours=-2))
    world.sync()
    (line,) = pipeline.status(world.request()).syncs
    assert [note.split(":")[1] for note in line.notes if note.startswith("warning")] == (
        [" below_minimum"] if settled else [" no_size"]
    )
    monkeypatch.setattr(sizes, "settles_after", lambda cls: timedelta(hours=48))
    (line,) = pipeline.status(world.request()).syncs
    assert [note.partition(" until")[0] for note in line.notes] == ["processing"]


def test_removals_that_tiktok_refuses_stay_pending(world: World) -> None:
    """As where an audience would become too small: they are shown, tried in every run, and one day they are done."""
    assert world.serving is not None
    world.sync()
    world.segment([1])
    faults = world.serving.sandbox.faults
    faults.add({"kind": "too_small", "match": {"op": "remove"}, "times": -1})
    for _ in range(2):
        result = world.sync()
        assert (result.status, result.counts.removed, result.counts.pending) == ("failed", 0, 1)
        assert result.reason.startswith("40002: ")
        (line,) = pipeline.status(world.request()).syncs
        assert (line.members, line.pending) == (1, 1)
    faults.clear()
    assert world.sync().counts.removed == 1
    assert world.held() == {("EMAIL_SHA256", sha("ada@example.com"))}
    assert world.sync().status == "noop"
