"""The LinkedIn destination: what it sends, what it makes of answers, and what a whole sync leaves in the sandbox.

Expectations are typed from LinkedIn's Marketing API 202608 ("Create and manage segments", "Create and manage segment
users", "Error handling", "Programmatic refresh tokens", read 2026-11), not from our own output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import duckdb
import pytest
from pydantic import ValidationError

from dbt_segments.destinations.auth import Bearer, OAuthRefresh
from dbt_segments.destinations.base import Audience, Batch, Call, Flow, Op, Outcome, Reply, Size
from dbt_segments.destinations.linkedin import LinkedIn, LinkedInSettings
from dbt_segments.destinations.linkedin_companies import LinkedInCompanies
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
from tests.one_click.case_linkedin import CASE
from tests.projects import DuckDBWarehouse
from tests.world import World, make_world, sha

T = TypeVar("T")
MARK = "dbt-segments:state1:shop.vip.linkedin:n0nce"
ACCOUNT = "urn:li:sponsoredAccount:42"
AUDIENCE = Audience("9821736", "VIP buyers", MARK, ACCOUNT)
USERS = Call("POST", f"/dmpSegments/{AUDIENCE.id}/users")
GET = Call("GET", f"/dmpSegments/{AUDIENCE.id}")
CREATE = Call("POST", "/dmpSegments", safe=False)
FIND = Call("GET", "/dmpSegments")
HEADERS = {
    "LinkedIn-Version": "202608",
    "X-Restli-Protocol-Version": "2.0.0",
    "Content-Type": "application/json",
}
SEGMENT: dict[str, Any] = {
    "id": 9821736,
    "name": "VIP buyers",
    "type": "USER",
    "sourceSegmentId": MARK,
    "account": ACCOUNT,
    "inputCount": 1200,
    "destinations": [{"destination": "LINKEDIN", "status": "READY", "matchedCount": 700, "audienceSize": 640}],
}


def linkedin(**settings: Any) -> LinkedIn:
    given = {"ad_account_id": "42", "source_platform": "ACME", "access_token": "token-1", **settings}
    return LinkedIn(LinkedInSettings(**{name: value for name, value in given.items() if value is not None}))


def play(flow: Flow[T], *replies: Any) -> tuple[T, list[Call]]:
    """The flow's result and its calls, answered in turn: a Reply, an error to throw, or the JSON of a 200."""
    calls, answers = [], iter(replies)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            answer = next(answers)
            if isinstance(answer, DestinationError):
                call = flow.throw(answer)
            else:
                call = flow.send(answer if isinstance(answer, Reply) else Reply(200, {}, answer))
    except StopIteration as end:
        assert next(answers, None) is None, "more replies than calls"
        return end.value, calls


def listing(*entries: dict[str, Any], total: int | None = None) -> dict[str, Any]:
    return {"paging": {"start": 0, "count": 100, "total": total or len(entries)}, "elements": list(entries)}


def batch(op: Op = Op.ADD, rows: str = '{"a":1},{"a":2},{"a":3}', count: int = 3) -> Batch:
    return Batch(op, rows, count, 1, True, count, "g1-b1", 1, ("email",))


# -- identifiers ----------------------------------------------------------------------------------------------

HEX64 = "86e0b9e56c17cc4d12387e1949b85053fbe73bc3ce5a1188713a9d300cc6133d"
# LinkedIn's rules: identifier, raw, country, what is sent.
SENT = [
    ("email", " Jane.Doe@Example.COM ", HEX64),
    ("email", "J.Doe+News@Gmail.com", "a381164d961568fd2d50633268b5430ee56b338246ac900101d161dfae1236c1"),
    ("email", "Mia@Example.ORG", "2185f8d9db3e25555b813ec60e4873cc5452aa80dc94ef6fd231b751c8c8dd25"),
    ("email", "jane .doe@ example.com", HEX64),
    ("email", f" {HEX64.upper()}\t", HEX64),
    ("sha256_email", "jane.doe@example.com", HEX64),
    ("aaid", " CDDA802E-FB9C-47AD-9866-0794D394C912 ", "cdda802e-fb9c-47ad-9866-0794d394c912"),
    ("maid", "CDDA802E-FB9C-47AD-9866-0794D394C912", "cdda802e-fb9c-47ad-9866-0794d394c912"),
    ("google_aid", "CDDA802E-FB9C-47AD-9866-0794D394C912", "cdda802e-fb9c-47ad-9866-0794d394c912"),
    ("first_name", " Jean-Luc ", "Jean-Luc"),
    ("last_name", "d\u2019Artagnan O'Neill", "d\u2019Artagnan O'Neill"),
    ("last_name", "Łoś-Müller", "Łoś-Müller"),
    ("last_name", "x" * 35, "x" * 35),
    ("first_name", HEX64[:35], HEX64[:35]),
    ("last_name", "Doe @ work. Co", "Doe @ work. Co"),
    ("country", "germany", "DE"),
    ("country", "USA", "US"),
    ("country", "uk", "GB"),
]
NOT_SENT = [
    ("email", "a@example.com, b@example.com", "email_invalid"),
    ("email", "Jane <jane@example.com>", "email_invalid"),
    ("email", "0cc175b9c0f1b6a831c399e269772661", "email_invalid"),
    ("email", "a" * 40, "email_invalid"),
    ("email", "a" * 63, "email_invalid"),
    ("email", "a" * 128, "email_invalid"),
    ("email", 12345, "email_invalid"),
    ("email", "12345.0", "number_text"),
    ("email", " \u00a0 ", "absent"),
    ("email", None, "absent"),
    ("aaid", "00000000-0000-0000-0000-000000000000", "maid_zero"),
    ("aaid", "cdda802efb9c47ad98660794d394c912", "maid_invalid"),
    ("aaid", "jane@example.com", "maid_invalid"),
    ("aaid", HEX64, "maid_invalid"),
    ("last_name", "x" * 36, "name_too_long"),
    ("first_name", "jane@example.com", "holds_email"),
    ("last_name", "Doe <jane@example.com>", "holds_email"),
    ("last_name", "write to jane+news@mail.example.co.uk, please", "holds_email"),
    ("first_name", "nan", "absent"),
    ("country", "Atlantis", "country_unknown"),
    ("phone", "+442071838750", "identifier_not_taken"),
    ("postal_code", "10001", "identifier_not_taken"),
]


def tried(identifier: str, value: Any) -> dict[str, Any]:
    accepts = LinkedIn.identifiers
    synonyms = {accept.field.lower(): name for name, accept in accepts.items()}
    rules = {name: accept.rule for name, accept in accepts.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value}], rules, synonyms=synonyms)
    return answer


@pytest.mark.parametrize(("identifier", "raw", "sent"), SENT)
def test_what_is_sent(identifier: str, raw: Any, sent: str) -> None:
    """Only e-mails are hashed; everything else goes as LinkedIn wants to read it."""
    answer = tried(identifier, raw)
    assert (answer["sent"], answer["hashed"], answer["reason"]) == (sent, "email" in identifier, None)


@pytest.mark.parametrize(("identifier", "raw", "reason"), NOT_SENT)
def test_what_is_not_sent(identifier: str, raw: Any, reason: str) -> None:
    """Left out with a reason, never guessed or repaired; no SHA-512 and no phone are taken."""
    answer = tried(identifier, raw)
    assert (answer["sent"], answer["reason"]) == (None, reason)


@pytest.mark.parametrize(
    ("member", "element"),
    [
        (
            {"email": "aa", "aaid": "bb", "first_name": 'Jo "X"', "last_name": "Doe", "country": "US"},
            {
                "action": "ADD",
                "userIds": [{"idType": "SHA256_EMAIL", "idValue": "aa"}, {"idType": "GOOGLE_AID", "idValue": "bb"}],
                "firstName": 'Jo "X"',
                "lastName": "Doe",
                "country": "US",
            },
        ),
        (
            {"email": None, "aaid": "bb", "first_name": None, "last_name": None, "country": None},
            {"action": "ADD", "userIds": [{"idType": "GOOGLE_AID", "idValue": "bb"}]},
        ),
        (
            {"email": None, "aaid": None, "first_name": "Jo", "last_name": "Doe", "country": None},
            {"action": "ADD", "firstName": "Jo", "lastName": "Doe"},
        ),
        ({"first_name": "Jo", "last_name": "Doe"}, {"action": "ADD", "firstName": "Jo", "lastName": "Doe"}),
        ({"email": "aa"}, {"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": "aa"}]}),
    ],
)
def test_one_member(member: dict[str, str | None], element: dict[str, Any]) -> None:
    """Ids in `userIds`, the rest beside them; what is absent is neither null nor empty, but left out."""
    con = duckdb.connect()
    cells = {name: f"(select cast(to_json(v) as varchar) from p where n = '{name}')" for name in member}
    columns = [[*member], [*member.values()]]
    con.execute("create table p as select unnest(?::varchar[]) as n, unnest(?::varchar[]) as v", columns)
    ((text,),) = con.execute(f"select {linkedin().write(Op.ADD, cells)}").fetchall()
    assert json.loads(text) == element
    ((text,),) = con.execute(f"select {linkedin().write(Op.REMOVE, cells)}").fetchall()
    assert json.loads(text) == {**element, "action": "REMOVE"}


# -- the connection -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "root"),
    [
        ({}, "https://api.linkedin.com/rest"),
        ({"base_url": "http://127.0.0.1:8199/linkedin/"}, "http://127.0.0.1:8199/linkedin/rest"),
        ({"base_url": "https://api.linkedin.com/rest/"}, "https://api.linkedin.com/rest"),
    ],
)
def test_root(settings: dict[str, str], root: str) -> None:
    """No version in the path; `/rest` may be written or not."""
    assert linkedin(**settings).root() == root


def test_the_version_is_a_header_that_settings_may_change() -> None:
    """Every call has it, with the protocol's version."""
    for word, flow in (
        ("FINDER", linkedin().find(MARK, "x")),
        ("GET", linkedin().get("1")),
        ("CREATE", linkedin().create("x", MARK)),
        ("DELETE", linkedin().delete(AUDIENCE)),
        ("BATCH_CREATE", linkedin().push(AUDIENCE, batch())),
    ):
        assert dict(next(flow).headers) == {**HEADERS, "X-RestLi-Method": word}
    assert next(linkedin(api_version="202607").get("1")).headers["LinkedIn-Version"] == "202607"


@pytest.mark.parametrize("given", ["42", " 42 ", 42, ACCOUNT])
def test_the_ad_account_in_any_spelling(given: Any) -> None:
    """Digits, a number or the URN."""
    assert linkedin(ad_account_id=given).account() == ACCOUNT


EXCHANGE = {"client_id": "c", "client_secret": "s3cret", "refresh_token": "r3fresh"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"access_token": None},
        {**EXCHANGE},
        {"access_token": None, **EXCHANGE, "client_secret": None},
        {"client_id": "c"},
        {"ad_account_id": "act_42"},
        {"source_platform": "LIST_UPLOAD"},
        {"source_platform": "acme"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    """One way to a token, a number, a value that LinkedIn assigned; no message shows a secret."""
    with pytest.raises(ValidationError) as caught:
        linkedin(**wrong)
    assert "s3cret" not in str(caught.value)
    assert "r3fresh" not in str(caught.value)


def test_a_fixed_token_or_one_that_is_fetched(tmp_path: Path) -> None:
    """Both ways that LinkedIn knows."""
    assert isinstance(linkedin().auth(), Bearer)
    fetched = linkedin(access_token=None, token_file=str(tmp_path / "tokens.json"), **EXCHANGE).auth()
    assert isinstance(fetched, OAuthRefresh)


# -- answers --------------------------------------------------------------------------------------------------


def error(status: int, code: str | None = None, **headers: str) -> Reply:
    body: dict[str, Any] = {"message": "for jane@example.com", "serviceErrorCode": 100, "status": status}
    return Reply(status, headers, {**body, "code": code} if code else body)


FAULTS: list[tuple[Call, Reply, type[DestinationError], bool, float | None]] = [
    (USERS, error(400), RefusedError, False, None),
    (USERS, error(401), AuthError, False, None),
    (USERS, error(403), AuthError, False, None),
    (USERS, error(404), GoneError, False, None),
    (GET, error(404), GoneError, False, None),
    (FIND, error(404), RefusedError, False, None),
    (CREATE, error(404), RefusedError, False, None),
    (USERS, error(405), RefusedError, False, None),
    (USERS, error(408), UnknownError, True, None),
    (USERS, error(409), TransientError, True, None),
    (CREATE, error(409), TransientError, False, None),
    (USERS, error(411), RefusedError, False, None),
    (USERS, error(422), RefusedError, False, None),
    (USERS, error(423), TransientError, True, None),
    (USERS, error(426), RefusedError, False, None),
    (USERS, error(429), TransientError, True, 60.0),
    (USERS, error(429, **{"retry-after": "7"}), TransientError, True, None),
    (CREATE, error(429, "SEGMENT_LIMIT_EXCEEDED"), RefusedError, False, None),
    (USERS, error(500), UnknownError, True, None),
    (USERS, error(503), UnknownError, True, None),
    (USERS, Reply(502, {}, None), UnknownError, True, None),
    (USERS, Reply(200, {}, None), UnknownError, True, None),
    (USERS, Reply(200, {}, None, empty=True), UnknownError, True, None),
    (CREATE, Reply(200, {}, None), UnknownError, True, None),
    (GET, Reply(200, {}, [1]), UnknownError, True, None),
]


@pytest.mark.parametrize(("call", "reply", "kind", "retry", "wait_s"), FAULTS)
def test_faults(call: Call, reply: Reply, kind: type[DestinationError], retry: bool, wait_s: float | None) -> None:
    """Status by status as LinkedIn documents them; no text of the answer is shown."""
    fault = linkedin().fault(call, reply)
    assert fault is not None
    assert (type(fault.error), fault.retry, fault.wait_s) == (kind, retry, wait_s)
    assert fault.renew == (reply.status == 401)
    assert "jane" not in f"{fault.error!r} {fault.error.hint}"


def test_hints_of_the_final_ones() -> None:
    """What to do about a version that ended, and about a full account."""
    ended, full = (linkedin().fault(USERS, error(426)), linkedin().fault(CREATE, error(429, "SEGMENT_LIMIT_EXCEEDED")))
    assert ended is not None
    assert "api_version" in str(ended.error.hint)
    assert full is not None
    assert (full.error.code, "1,000" in str(full.error.hint)) == ("429/SEGMENT_LIMIT_EXCEEDED", True)


@pytest.mark.parametrize("call", [CREATE, Call("DELETE", GET.path), Call("POST", GET.path)])
def test_an_empty_answer_is_the_success_of_some_calls(call: Call) -> None:
    """Creation, deletion and update have no body."""
    assert linkedin().fault(call, Reply(201, {}, None, empty=True)) is None


@pytest.mark.parametrize(
    ("results", "refused", "passing"),
    [
        ([{"status": 201}] * 3, {}, set()),
        (
            [{"status": 201}, {"status": 400, "error": {"message": "x"}}, {"status": 201}],
            {1: "400"},
            set(),
        ),
        ([{"status": 429}, {"status": 201}, {"status": 503}], {0: "429", 2: "503"}, {0, 2}),
        ([{"status": 408}, {"status": 409}, {"status": 423}], {0: "408", 1: "409", 2: "423"}, {0, 1, 2}),
        (
            [{"status": 400, "error": {"code": "INVALID"}}, {"status": 201}, {"status": 201}],
            {0: "400/INVALID"},
            set(),
        ),
        ([{"status": 201}], {1: "no_result", 2: "no_result"}, {1, 2}),
        ([{"status": 201}, {}, {"status": "201"}], {1: "no_result", 2: "no_result"}, {1, 2}),
    ],
)
def test_each_element_has_its_result(results: list[Any], refused: dict[int, str], passing: set[int]) -> None:
    """In request order; an element without a result was not taken, and is sent again by the next sync."""
    outcome, (call,) = play(linkedin().push(AUDIENCE, batch()), {"elements": results})
    assert outcome == Outcome(refused=refused, passing=frozenset(passing))
    assert json.loads(call.body or "") == {"elements": [{"a": 1}, {"a": 2}, {"a": 3}]}


def test_an_answer_without_elements_took_nobody() -> None:
    """`{}` is no success."""
    outcome, _ = play(linkedin().push(AUDIENCE, batch()), {})
    assert dict(outcome.refused) == dict.fromkeys(range(3), "no_result")


@pytest.mark.parametrize("elements", [[{"status": 201}] * 4, {"0": {"status": 201}}])
def test_results_that_cannot_be_placed_prove_nothing(elements: Any) -> None:
    """More results than elements, or something else than a list."""
    with pytest.raises(UnknownError):
        play(linkedin().push(AUDIENCE, batch()), {"elements": elements})


# -- audiences ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["x-restli-id", "x-linkedin-id"])
def test_create(header: str) -> None:
    """A streaming segment with our mark; the id is in a header, and without it nothing is known."""
    audience, (call,) = play(linkedin().create("VIP buyers", MARK), Reply(201, {header: AUDIENCE.id}, None, empty=True))
    assert audience == AUDIENCE
    assert (call.method, call.path, call.safe) == ("POST", "/dmpSegments", False)
    assert json.loads(call.body or "") == {
        "name": "VIP buyers",
        "description": MARK,
        "account": ACCOUNT,
        "type": "USER",
        "sourcePlatform": "ACME",
        "sourceSegmentId": MARK,
        "destinations": [{"destination": "LINKEDIN"}],
    }
    with pytest.raises(UnknownError):
        play(linkedin().create("VIP buyers", MARK), Reply(201, {}, None, empty=True))


def test_find_reads_every_page() -> None:
    """By mark wherever it stands, or by name and type; others are not ours."""
    first = [{"id": n, "name": f"S{n}", "type": "USER"} for n in range(100)]
    rest = [
        {**SEGMENT, "name": "Renamed since"},
        {"id": 12, "name": "VIP buyers", "type": "USER"},
        {"id": 13, "name": "VIP buyers", "type": "COMPANY"},
        {"id": 14, "name": "x", "type": "USER", "sourceSegmentId": "dbt-segments:state2:shop.vip.linkedin:n"},
        {"id": 15, "name": "x", "type": "USER", "description": f"words {MARK}"},
    ]
    replies = (listing(*first, total=105), listing(*rest, total=105))
    found, calls = play(linkedin().find("dbt-segments:state1:", "VIP buyers"), *replies)
    assert [(one.id, one.mark) for one in found] == [("12", ""), ("15", MARK), (AUDIENCE.id, MARK)]
    assert [dict(call.query) for call in calls] == [
        {"q": "account", "account": ACCOUNT, "sourcePlatform": "ACME", "start": start, "count": "100"}
        for start in ("0", "100")
    ]


def test_a_new_segment_is_there_although_it_answers_404() -> None:
    """What is listed exists; what is not listed either is gone."""
    audience, _ = play(linkedin().get(AUDIENCE.id), GoneError("x"), listing(SEGMENT))
    assert audience == AUDIENCE
    with pytest.raises(GoneError):
        play(linkedin().get(AUDIENCE.id), GoneError("x"), listing())
    with pytest.raises(GoneError):
        play(linkedin().push(AUDIENCE, batch()), GoneError("x"), listing())


def test_members_of_a_new_segment_are_sent_patiently() -> None:
    """The repeated call waits through further 404s, and those never mean that the segment is gone."""
    results = {"elements": [{"status": 201}] * 3}
    outcome, calls = play(linkedin().push(AUDIENCE, batch()), GoneError("x"), listing(SEGMENT), results)
    assert outcome == Outcome()
    fault = linkedin().fault(calls[2], error(404))
    assert fault is not None
    assert isinstance(fault.error, TransientError)
    assert fault.retry
    assert (fault.wait_s or 0) * ((fault.max_tries or 0) - 1) >= 90


@pytest.mark.parametrize(
    ("description", "written"),
    [
        ("orders > 5", f"orders > 5 {MARK}"),
        (None, MARK),
        ("orders dbt-segments:lost:x:old", f"orders {MARK}"),
        (MARK, None),
    ],
)
def test_adopt_keeps_the_words(description: str | None, written: str | None) -> None:
    """The description's words stay; ours comes behind them, once."""
    replies: list[Any] = [{**SEGMENT, "description": description}]
    if written:
        replies.append(Reply(204, {}, None, empty=True))
    audience, calls = play(linkedin().adopt(Audience(AUDIENCE.id, "x"), MARK), *replies)
    assert audience.mark == MARK
    patches = [json.loads(call.body or "") for call in calls[1:]]
    assert patches == ([{"patch": {"$set": {"description": written}}}] if written else [])


def test_a_segment_of_companies_is_not_adopted() -> None:
    """It would refuse every person."""
    with pytest.raises(RefusedError):
        play(linkedin().adopt(AUDIENCE, MARK), {**SEGMENT, "type": "COMPANY"})


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, Size(640, 640, "ready", 700 / 1200)),
        ({"inputCount": 0}, Size(640, 640, "ready", None)),
        ({"inputCount": 600}, Size(640, 640, "ready", 1.0)),
        ({"inputCount": None, "destinations": [{"status": "BUILDING"}]}, Size(None, None, "processing")),
        ({"destinations": []}, Size(None, None, "")),
        ({"inputCount": None, "destinations": [{"status": "EXPIRED"}]}, Size(status="expired", ended="EXPIRED")),
        ({"inputCount": None, "destinations": [{"status": "ARCHIVED"}]}, Size(status="archived")),
    ],
)
def test_size(changes: dict[str, Any], size: Size) -> None:
    """`audienceSize` is the figure for targeting; the rate is of the last seven days' input."""
    assert play(linkedin().size(AUDIENCE), {**SEGMENT, **changes})[0] == size


def test_deleting_what_is_gone_is_done() -> None:
    """A segment that is not there, nor listed, needs no deletion."""
    _, (call, _) = play(linkedin().delete(AUDIENCE), GoneError("x"), listing())
    assert (call.method, call.path) == ("DELETE", GET.path)


def test_a_new_segment_is_deleted_although_it_answers_404() -> None:
    """What is listed is there, with its members: to take the 404 for done would leave it."""
    _, calls = play(linkedin().delete(AUDIENCE), GoneError("x"), listing(SEGMENT), None)
    assert [(call.method, call.path) for call in calls[::2]] == [("DELETE", GET.path)] * 2
    fault = linkedin().fault(calls[2], error(404))
    assert fault is not None
    assert (fault.retry, isinstance(fault.error, TransientError)) == (True, True)
    assert linkedin().fault(calls[2], Reply(204, empty=True)) is None


def test_check_changes_nothing_and_says_what_it_knows() -> None:
    """Good, bad, and what LinkedIn does not tell."""
    good, calls = play(linkedin().check(), listing())
    assert [(one.what, one.good) for one in good] == [
        ("credentials", True),
        ("account", True),
        ("scopes", None),
        ("token", None),
    ]
    assert {call.method for call in calls} == {"GET"}
    bad, _ = play(linkedin().check(), AuthError("linkedin: the access token was refused", hint="make a new one"))
    assert [(one.what, one.good, one.hint) for one in bad] == [("credentials", False, "make a new one")]


# -- against the sandbox --------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[World]:
    with serve(sandbox=build(("linkedin",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.connections = {"linkedin": CASE.connection(f"{serving.url}/linkedin", tmp_path)}
        world.segments = {"vip": {"label": "VIP buyers", "destinations": ["linkedin"]}}
        world._table(
            "customers",
            "customer_id integer, email varchar, phone varchar, country varchar, first_name varchar, last_name varchar",
            [(1, "ada@example.com", None, "UK", "Ada", "King"), (2, None, None, "FR", "Bob", "Roe")],
        )
        world.identifiers = {name: name for name in ("email", "country", "first_name", "last_name")}
        world.segment([1, 2])
        yield world


def _serving(world: World) -> Serving:
    assert world.serving is not None
    return world.serving


def test_names_are_sent_only_where_they_are_asked_for(world: World) -> None:
    """Unasked, only the e-mail leaves; whoever has none is unusable."""
    result = world.sync()
    assert (result.status, result.counts.added, result.counts.unusable) == ("success", 1, 1)
    assert world.held() == {("SHA256_EMAIL", sha("ada@example.com"))}


def test_people_by_their_names(world: World) -> None:
    """Asked for, both names together find somebody; removal by the same names."""
    names = ["email", "first_name", "last_name", "country"]
    world.segments = {"vip": {"destinations": [{"to": "linkedin", "identifiers": names}]}}
    assert world.sync().counts.added == 2
    ada = {("SHA256_EMAIL", sha("ada@example.com")), ("NAME", "Ada King")}
    assert world.held() == ada | {("NAME", "Bob Roe")}
    world.segment([1])
    assert world.sync().exit_code == 0
    assert world.held() == ada
    assert _serving(world).state()["violations"]["linkedin"] == []


def test_a_phone_that_is_asked_for_is_a_mistake(world: World) -> None:
    """LinkedIn takes none, and that is said before anything is sent."""
    world.identifiers = {"email": "email", "phone": "phone"}
    world.segments = {"vip": {"destinations": [{"to": "linkedin", "identifiers": ["email", "phone"]}]}}
    with pytest.raises(Exception, match="does not take `phone`"):
        world.run()
    assert world.calls() == []


def test_a_new_segment_that_takes_no_members_yet(world: World) -> None:
    """The run waits for it; nobody is lost, and no second segment is made."""
    serving = _serving(world)
    serving.sandbox.platforms["linkedin"].policy["young_s"] = 50
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        serving.sandbox.clock.advance(seconds)

    with mock.patch("dbt_segments.pipeline.Sender", lambda *args, **more: Sender(*args, **{**more, "sleep": wait})):
        result = world.sync()
    assert (result.status, result.counts.added) == ("success", 1), result
    assert sum(waits) >= 50
    assert len(world.audiences()) == 1
    assert world.held() == {("SHA256_EMAIL", sha("ada@example.com"))}


def test_a_refresh_token_that_ended_is_final(world: World) -> None:
    """Exchanging it does not extend it: after a year somebody has to consent again."""
    world.connections["linkedin"]["refresh_token"] = "ended"
    result = world.sync()
    assert (result.status, result.exit_code) == ("failed", 1)
    assert "invalid_grant" in result.reason


# -- companies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identifier", "raw", "sent", "reason"),
    [
        ("website_domain", "https://www.Microsoft.com/en", "microsoft.com", None),
        ("website_domain", " WWW.example.co.uk:8080?x=1 ", "example.co.uk", None),
        ("email_domain", "Example.com", "example.com", None),
        ("email_domain", "info@example.com", None, "domain_invalid"),
        ("website_domain", "localhost", None, "domain_invalid"),
        ("website_domain", "https://", None, "domain_invalid"),
        ("organization", "1035", "urn:li:organization:1035", None),
        ("organization", "urn:li:organization:1035", "urn:li:organization:1035", None),
        ("organization", "Microsoft", None, "organization_invalid"),
        ("company_name", " Analytical Engines Ltd ", "Analytical Engines Ltd", None),
        ("company_name", "Vision@Work Ltd.", "Vision@Work Ltd.", None),
        ("company_name", "info@example.com", None, "holds_email"),
        ("company_page", "x" * 101, None, "name_too_long"),
        ("country", "Poland", "PL", None),
    ],
)
def test_what_is_sent_of_a_company(identifier: str, raw: str, sent: str | None, reason: str | None) -> None:
    """In clear, in LinkedIn's own spelling."""
    rules = {name: accept.rule for name, accept in LinkedInCompanies.identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": raw}], rules)
    assert (answer["sent"], answer["hashed"], answer["reason"]) == (sent, False, reason)


def test_a_list_of_companies(world: World, tmp_path: Path) -> None:
    """A classic sync keeps a segment of type COMPANY equal to the model, removals included."""
    serving = _serving(world)
    connection = CASE.connection(f"{serving.url}/linkedin", tmp_path)
    world.connections = {"companies": {**connection, "type": "linkedin_companies"}}
    world._table(
        "customers",
        "customer_id integer, company varchar, site varchar, country varchar",
        [(1, 'Ada "A" Ltd', "https://www.Ada.example/x", "UK"), (2, "Bob Inc", None, "US"), (3, None, "?", "FR")],
    )
    world.identifiers = {"company_name": "company", "website_domain": "site", "country": "country"}
    world.segments = {"vip": {"label": "Accounts", "syncs": [{"to": "companies", "mode": "mirror"}]}}
    world.segment([1, 2, 3])
    result = world.sync()
    assert (result.status, result.counts.added, result.counts.unusable) == ("success", 2, 1), result
    ada = {("companyName", 'Ada "A" Ltd'), ("companyWebsiteDomain", "ada.example")}
    assert world.held() == ada | {("companyName", "Bob Inc")}
    world.segment([1])
    assert world.sync().exit_code == 0
    assert world.held() == ada
    assert world.sync().status == "noop"
    assert serving.state()["violations"]["linkedin"] == []
    assert {call["path"].rpartition("/")[2] for call in world.calls("add")} == {"companies"}


def test_people_are_no_companies(world: World) -> None:
    """An entity without anything that finds a company is told of before anything is sent."""
    world.connections["companies"] = {**world.connections["linkedin"], "type": "linkedin_companies"}
    world.segments = {"vip": {"syncs": [{"to": "companies", "mode": "mirror"}]}}
    with pytest.raises(Exception, match="linkedin_companies could match nobody"):
        world.run()
    assert world.calls() == []


def test_a_plan_shows_the_words_of_a_row_and_nobodys_values(world: World) -> None:
    """What is asked for and of which kind an id is can be read; ids and names cannot."""
    world.segments["vip"]["destinations"] = [
        {"to": "linkedin", "identifiers": ["email", "first_name", "last_name", "country"]}
    ]
    (shown,) = world.plan(show_requests=1).requests.values()
    row = json.loads(shown[0].split("\n  ", 1)[1])["elements"][0]
    assert row == {
        "action": "ADD",
        "userIds": [{"idType": "SHA256_EMAIL", "idValue": "<sha256>"}],
        **dict.fromkeys(row.keys() - {"action", "userIds"}, "***"),
    }
    assert {"firstName", "lastName"} <= row.keys()
