"""What a sync sends to Google, read by Google's own messages, and its values beside those of Google's own utility.

`google-ads-datamanager` holds the API's protobuf messages: every body must be one of them, with no unknown name, and
come out of it as it went in. What the sandbox answers is read by them, too.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments.destinations.google_ads import GoogleAds
from dbt_segments.identifiers.attempt import attempt
from dbt_segments.sandbox.google_ads import PLATFORM
from dbt_segments.sandbox.platform import Clock, Request
from tests.one_click.case_google_ads import CASE
from tests.projects import DuckDBWarehouse, make_project
from tests.world import World, sha

with warnings.catch_warnings():
    # Google's libraries warn of Python versions whose support ends.
    warnings.simplefilter("ignore", FutureWarning)
    from google.ads import datamanager_v1
    from google.ads.datamanager_util import Formatter
    from google.protobuf import json_format

REPOSITORY = Path(__file__).parents[2]
URL = "http://127.0.0.1:8199"
PEOPLE = [
    (1, "Ada.Lovelace@gmail.com", "+1 201 555 0123", "Ada", "O'Neill", "US", "10001", "yes"),
    (2, "bob@example.com", None, "Bob", None, None, None, "no"),
    (3, None, None, "José", "Şahin", "Germany", "20095", None),
]
IDENTIFIERS = ("email", "phone", "first_name", "last_name", "country", "postal_code")


class Line:
    """The way to the platform: keeps what goes out and what comes back."""

    def __init__(self) -> None:
        self.platform = PLATFORM(Clock())
        self.seen: list[tuple[str, dict[str, str], Any, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        asked = Request(request.method, request.url.path, dict(request.url.params), headers, request.content)
        asked.op = self.platform.classify(asked)
        answer = self.platform.answer(asked)
        body = json.loads(request.content) if request.content and asked.op != "token" else None
        self.seen.append((asked.op, dict(request.url.params), body, answer.body))
        return httpx.Response(answer.status, json=answer.body, headers={"date": formatdate(usegmt=True)})

    def of(self, op: str) -> list[tuple[dict[str, str], Any, Any]]:
        return [(query, body, answer) for name, query, body, answer in self.seen if name == op]


@pytest.fixture(scope="module", params=["constants", "columns"])
def line(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """Two syncs and their jobs: everybody is added, then one is removed; consent of all alike, and by a column."""
    path = tmp_path_factory.mktemp("google")
    warehouse = DuckDBWarehouse(path / "warehouse.duckdb")
    world = World(make_project(path / "shop", warehouse, {}), warehouse, "")
    world.identifiers = {name: name for name in IDENTIFIERS}
    world.segments = {"vip": {"label": "VIP buyers", "syncs": [{"to": "google_ads", "mode": "replace"}]}}
    connection = {**CASE.connection(URL, path), "login_customer_id": "9876543210"}
    if request.param == "columns":
        connection["consent"] = {"ad_user_data": "agreed", "ad_personalization": "granted"}
    world.connections = {"google_ads": connection}
    rows = ", ".join("(" + ", ".join("null" if c is None else repr(c) if isinstance(c, int) else
                     "'" + c.replace("'", "''") + "'" for c in row) + ")" for row in PEOPLE)  # fmt: skip
    world.sql(
        f"create table customers as select * from (values {rows}) t(customer_id, {', '.join(IDENTIFIERS)}, agreed)"
    )
    line = Line()
    line.platform.policy["login_customer_id"] = "9876543210"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GoogleAds, "transport", lambda self: httpx.MockTransport(line))
        for members in ((1, 2, 3), (1, 2)):
            world.segment(members)
            for _ in range(3):
                world.sync()
    # Where consent comes by a column, members are refused without being named, and nobody is swept.
    sweeps = 2 if request.param == "constants" else 0
    assert [len(line.of(op)) for op in ("create", "add", "remove", "sweep")] == [1, 2, 1, sweeps]
    yield line


def exactly(message: Any, body: Any) -> None:
    """The body is this message, whole: nothing unknown, nothing lost on the way."""
    parsed = json_format.ParseDict(body, message.pb()(), ignore_unknown_fields=False)
    assert json_format.MessageToDict(parsed) == body


def test_members_are_google_s_messages(line: Line) -> None:
    """Both requests, member by member, with the request's consent or the members' own."""
    [(_, added, _), _], [(_, removed, _)] = line.of("add"), line.of("remove")
    exactly(datamanager_v1.IngestAudienceMembersRequest, added)
    exactly(datamanager_v1.RemoveAudienceMembersRequest, removed)
    assert len(added["audienceMembers"]) == len(PEOPLE)
    assert len(removed["audienceMembers"]) == 1
    own = sorted(json.dumps(member.get("consent"), sort_keys=True) for member in added["audienceMembers"])
    if "consent" in added:
        assert own == ["null"] * 3
    else:
        granted, denied = ({"adUserData": f"CONSENT_{word}"} for word in ("GRANTED", "DENIED"))
        always = {"adPersonalization": "CONSENT_GRANTED"}
        assert own == sorted(
            json.dumps(one, sort_keys=True) for one in (always, {**granted, **always}, {**denied, **always})
        )
    digests = re.findall('"(?:emailAddress|phoneNumber|givenName|familyName)": "([^"]*)"', json.dumps(added))
    assert len(digests) == 7
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests)


def test_a_sweep_is_google_s_message(line: Line) -> None:
    """One list, and a moment; none would mean now, with everybody in it."""
    for _, body, _ in line.of("sweep"):
        exactly(datamanager_v1.RemoveAllAudienceMembersRequest, body)
        assert len(body["destinations"]) == 1
        assert body["destinations"][0]["productDestinationId"]
        assert body["removeAsOfTime"]


def test_a_list_is_google_s_message(line: Line) -> None:
    """The list as it is made."""
    [(_, body, _)] = line.of("create")
    exactly(datamanager_v1.UserList, body)


def test_the_sandbox_answers_in_google_s_messages(line: Line) -> None:
    """Lists, jobs and their outcomes, without an unknown name or word."""
    messages = {
        "create": datamanager_v1.UserList,
        "get": datamanager_v1.UserList,
        "find": datamanager_v1.ListUserListsResponse,
        "add": datamanager_v1.IngestAudienceMembersResponse,
        "remove": datamanager_v1.RemoveAudienceMembersResponse,
        "sweep": datamanager_v1.RemoveAllAudienceMembersResponse,
        "poll": datamanager_v1.RetrieveRequestStatusResponse,
    }
    assert {name for name, *_ in line.seen} | {"sweep"} == {*messages, "token"}
    for name, message in messages.items():
        for _, _, answer in line.of(name):
            json_format.ParseDict(answer, message.pb()(), ignore_unknown_fields=False)


@pytest.mark.parametrize(
    "change",
    [{"unheard": 1}, {"encoding": "HEXADECIMAL"}, {"audienceMembers": [{"userData": {}, "mobileData": {}}]}],
)
def test_google_s_messages_refuse_what_they_do_not_know(line: Line, change: dict[str, Any]) -> None:
    """So the tests above can fail."""
    (_, added, _), *_ = line.of("add")
    with pytest.raises(json_format.ParseError):
        exactly(datamanager_v1.IngestAudienceMembersRequest, {**added, **change})


# -- values ---------------------------------------------------------------------------------------------------

_FORMATS = {
    "email": "format_email_address",
    "phone": "format_phone_number",
    "first_name": "format_given_name",
    "last_name": "format_family_name",
    "country": "format_region_code",
    "postal_code": "format_postal_code",
}
SAME = [
    ("email", " Jane.Doe+news@Gmail.com ", "janedoe@gmail.com"),
    ("email", "a.b+c@googlemail.com", "ab@googlemail.com"),
    ("email", "User.Name+NYC@Example.com", "user.name+nyc@example.com"),
    ("email", "JOSÉ@example.com", "josé@example.com"),
    ("phone", "+1 (201) 555-0123", "+12015550123"),
    ("phone", "44 20 7946 0958", "+442079460958"),
    ("first_name", " José ", "josé"),
    ("first_name", "Anna-Maria", "anna-maria"),
    ("last_name", "O'Brien", "o'brien"),
    ("country", "us", "US"),
    ("postal_code", " SW1A 1AA ", "SW1A 1AA"),
]
# identifier, value, what is sent here, what Google's utility makes of it; None: nothing.
DIFFERENT: list[tuple[str, str, str | None, str | None]] = [
    ("email", "ada lovelace@example.com", "adalovelace@example.com", None),
    ("email", "ada@example", None, "ada@example"),
    ("email", "ada@example.com.", None, "ada@example.com."),
    ("phone", "+44 (0)20 7946 0958", "+442079460958", "+4402079460958"),
    ("phone", "0044 20 7946 0958", "+442079460958", "+00442079460958"),
    ("phone", "020 7946 0958", None, "+02079460958"),
    ("first_name", "Mrs. Ada", "ada", "mrs. ada"),
    ("first_name", "Anna  Maria", "anna maria", "anna  maria"),
    ("last_name", "DOE Jr.", "doe", "doe jr."),
    ("country", "Germany", "DE", None),
]


def ours(identifier: str, value: str) -> str | None:
    rules = {name: accepts.rule for name, accepts in GoogleAds.identifiers.items()}
    (answer,) = attempt([{"identifier": identifier, "value": value, "country": None}], rules)
    return answer["sent"] if answer["sent"] is None else str(answer["sent"])


def theirs(identifier: str, value: str) -> str | None:
    try:
        return str(getattr(Formatter(), _FORMATS[identifier])(value))
    except ValueError:
        return None


def hashed(identifier: str, text: str | None) -> str | None:
    return sha(text) if text is not None and GoogleAds.identifiers[identifier].rule.hashed else text


@pytest.mark.parametrize(("identifier", "value", "text"), SAME)
def test_plain_values_are_the_utility_s(identifier: str, value: str, text: str) -> None:
    """Our digest is that of the text which Google's utility makes."""
    assert theirs(identifier, value) == text
    assert ours(identifier, value) == hashed(identifier, text)


@pytest.mark.parametrize(("identifier", "value", "here", "there"), DIFFERENT)
def test_values_that_differ(identifier: str, value: str, here: str | None, there: str | None) -> None:
    """Both are what was typed here."""
    assert (ours(identifier, value), theirs(identifier, value)) == (hashed(identifier, here), there)


def test_every_difference_is_documented() -> None:
    """The table of the page holds exactly the cases above, in order."""
    page = (REPOSITORY / "docs/reference/destinations/google_ads.md").read_text(encoding="utf-8")
    section = page.split("## Where Google's utility differs\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    shown = [[cell.replace("`", "") for cell in line] for line in lines]
    assert shown == [[name, value, here or "nothing", there or "nothing"] for name, value, here, there in DIFFERENT]
