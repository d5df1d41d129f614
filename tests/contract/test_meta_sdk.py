"""What a sync sends to Meta, beside what Meta's own SDK sends for the same people.

Both requests are taken off the wire, where no network is behind it. Ours comes from a whole sync of raw warehouse
columns. The expected texts are typed by hand. Where the SDK normalises otherwise, the contract goes with Meta's pages;
each such case stands here and in docs/reference/destinations/meta.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import requests
from facebook_business import apiconfig
from facebook_business.adobjects.adaccount import AdAccount
from facebook_business.adobjects.customaudience import CustomAudience
from facebook_business.api import FacebookAdsApi
from facebook_business.session import FacebookSession
from requests.adapters import BaseAdapter

from dbt_segments.destinations.meta import Meta
from dbt_segments.warehouse import literal
from tests.projects import REPOSITORY, DuckDBWarehouse, make_project
from tests.world import World, sha

AUDIENCE = "120210000000000001"
TOKEN = "sandbox-token"
# Identifiers in the order of our rows, with the SDK's own names.
# One identifier a field: `idfa` and `aaid` go where `maid` goes, and by the same rule.
FIELDS = {name: accepts.field for name, accepts in Meta.identifiers.items() if name not in ("idfa", "aaid")}
_WITH_COUNTRY = ("phone", "region", "postal_code")


# -- people ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One raw value, and the texts that are hashed (or sent, where a field travels in clear); None: nothing is sent."""

    identifier: str
    raw: str
    ours: str | None
    theirs: str
    country: str | None = None

    def __str__(self) -> str:
        return f"{self.identifier}: {self.raw}"


def same(identifier: str, raw: str, text: str, country: str | None = None) -> Case:
    return Case(identifier, raw, text, text, country)


SAME = [
    same("email", " Jane.Doe+news@Gmail.com ", "jane.doe+news@gmail.com"),
    same("email", "Mary@Example.com", "mary@example.com"),
    same("phone", "+1 (800) 555-0100", "18005550100"),
    same("phone", "+49 30 23125 000", "493023125000"),
    same("external_id", " cust-0042 ", "cust-0042"),
    same("first_name", " Mary ", "mary"),
    same("first_name", "Jean Paul", "jeanpaul"),
    same("last_name", "O'Brien", "obrien"),
    same("last_name", "Garcia-Lopez", "garcialopez"),
    same("fi", "M", "m"),
    same("gender", "Female", "f"),
    same("gender", "M", "m"),
    same("doby", "1985", "1985"),
    same("dobm", "3", "03"),
    same("dobd", "31", "31"),
    same("city", "San Francisco", "sanfrancisco"),
    same("city", "St. Paul", "stpaul"),
    same("region", "CA", "ca"),
    same("postal_code", "94103-1234", "94103"),
    same("country", "US", "us"),
    same("country", "USA", "us"),
]
DIFFERENT = [
    Case("email", "ada@example.com.", None, "ada@example.com"),
    Case("email", "no address", None, "no address"),
    Case("phone", "(201) 555-0199", "12015550199", "2015550199", "US"),
    Case("phone", "0044 20 7946 0958", "442079460958", "00442079460958"),
    Case("phone", "+44 (0)20 7946 0958", "442079460958", "4402079460958"),
    Case("external_id", "A-17", "A-17", "a-17"),
    Case("first_name", "José", "josé", "jos"),
    Case("last_name", "Łoś", "łoś", "o"),
    Case("fi", "Mary", "m", "mary"),
    Case("gender", "woman", "f", "w"),
    Case("gender", "unknown", None, "u"),
    Case("doby", "1985-12-10", "1985", "19851210"),
    Case("dobm", "July", "07", ""),
    Case("city", "Malmö", "malmo", "malm"),
    Case("region", "New York", "ny", "newyork", "US"),
    Case("postal_code", "EC2V 7HH", "ec2v7hh", "ec2v 7hh"),
    Case("postal_code", "00-950", "00950", "00", "PL"),
    Case("country", "Germany", "de", "ge"),
    Case("country", "Chile", "cl", "ch"),
]
CASES = [*SAME, *DIFFERENT]

PERSON = {
    "email": "Ada.Lovelace@Example.com",
    "phone": "+1 201 555 0123",
    "maid": "AEBE52E7-03EE-455A-B3C4-E57283966239",
    "external_id": "c-1042",
    "first_name": "Ada",
    "last_name": "Lovelace",
    "fi": "A",
    "gender": "female",
    "doby": "1985",
    "dobm": "12",
    "dobd": "10",
    "city": "Trenton",
    "region": "NJ",
    "postal_code": "08608",
    "country": "US",
}
DIGEST = sha("grace@example.com").upper()
# A member whose e-mail is hashed already, and who has nothing else.
HASHED = {"email": DIGEST}


def companion(number: int) -> str:
    """A mobile id by which the row of a case is found again."""
    return f"00000000-0000-4000-8000-{number + 1:012}"


def columns(number: int, case: Case) -> dict[str, str]:
    """The raw columns of the person of a case."""
    country = {"country": case.country} if case.country else {}
    return {"maid": companion(number), **country, case.identifier: case.raw}


PEOPLE = [PERSON, HASHED, *(columns(number, case) for number, case in enumerate(CASES))]


# -- ours -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wire:
    """A request as it left: query and form fields are decoded."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]

    @property
    def payload(self) -> Any:
        return json.loads(self.form["payload"])

    def cell(self, row: Sequence[str], identifier: str) -> str:
        return str(row[self.payload["schema"].index(FIELDS[identifier])])


def wire(method: str, url: str, body: bytes | str | None) -> Wire:
    parts = urlsplit(url)
    text = body.decode() if isinstance(body, bytes) else body or ""
    fields = (parse_qs(part, keep_blank_values=True, strict_parsing=bool(part)) for part in (parts.query, text))
    query, form = ({name: value for name, (value,) in found.items()} for found in fields)
    return Wire(method, parts.path, query, form)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Wire]]:
    """Three requests of two syncs: the audience made, everybody added, the person of `PERSON` removed."""
    sent: list[Wire] = []

    def platform(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            listing = request.url.path.endswith("/customaudiences")
            made = {"id": AUDIENCE, "account_id": "42", **(sent[0].form if sent else {})}
            return httpx.Response(200, json={"data": []} if listing else made)
        sent.append(wire(request.method, str(request.url), request.content))
        if sent[-1].path.endswith("/customaudiences"):
            return httpx.Response(200, json={"id": AUDIENCE})
        return httpx.Response(200, json={"num_received": len(sent[-1].payload["data"]), "num_invalid_entries": 0})

    path = tmp_path_factory.mktemp("sdk")
    warehouse = DuckDBWarehouse(path / "warehouse.duckdb")
    world = World(make_project(path / "shop", warehouse, {}), warehouse, "")
    world.identifiers = {
        name: {"column": name, "country": "country"} if name in _WITH_COUNTRY else name for name in FIELDS
    }
    world.segments = {"vip": {"destinations": [{"to": "meta", "identifiers": list(FIELDS)}]}}
    world.connections = {"meta": {"type": "meta", "ad_account_id": "42", "access_token": TOKEN}}
    texts = ", ".join(f"{name} varchar" for name in FIELDS)
    cells = [["null" if name not in person else literal(person[name]) for name in FIELDS] for person in PEOPLE]
    rows = ", ".join(f"({number}, {', '.join(row)})" for number, row in enumerate(cells))
    world.sql(f"create table customers (customer_id integer, {texts}); insert into customers values {rows}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Meta, "transport", lambda self: httpx.MockTransport(platform))
        world.segment(range(len(PEOPLE)))
        assert world.sync().counts.added == len(PEOPLE)
        world.segment(range(1, len(PEOPLE)))
        assert world.sync().counts.removed == 1
    assert len(sent) == 3
    yield sent


# -- theirs ---------------------------------------------------------------------------------------------------


class Recorder(BaseAdapter):
    """Takes the SDK's requests in place of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Wire] = []

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        assert request.method is not None and request.url is not None
        self.sent.append(wire(request.method, request.url, request.body))
        response = requests.Response()
        response.status_code = 200
        response._content = b'{"id": "1"}'
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FacebookAdsApi, Recorder]]:
    """The official SDK in its strict mode, with our token, and what it sends."""
    monkeypatch.setitem(apiconfig.ads_api_config, "STRICT_MODE", True)
    session = FacebookSession(access_token=TOKEN)
    recorder = Recorder()
    session.requests.mount("https://", recorder)
    with session.requests:
        yield FacebookAdsApi(session), recorder


def raw_rows(people: Sequence[dict[str, str]], schema: Sequence[str]) -> list[list[str]]:
    """The people's raw values in the order of a schema; the SDK takes texts only."""
    names = {field: name for name, field in FIELDS.items()}
    return [[person.get(names[field], "") for field in schema] for person in people]


# -- shape ----------------------------------------------------------------------------------------------------


def test_every_field_is_one_the_sdk_knows() -> None:
    """Our schema's names are those of the SDK's multi-key schema."""
    known = {value for name, value in vars(CustomAudience.Schema.MultiKeySchema).items() if not name.startswith("_")}
    assert set(FIELDS.values()) <= known
    assert Meta.version == FacebookAdsApi.API_VERSION


def test_the_audience_is_made_as_the_sdk_makes_it(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> None:
    """The SDK's strict mode takes every field of ours, and sends the same form to the same place."""
    api, recorder = sdk
    AdAccount("act_42", api=api).create_custom_audience(params=ours[0].form)
    theirs = recorder.sent[0]
    assert (theirs.method, theirs.path, theirs.form) == (ours[0].method, ours[0].path, ours[0].form)


def test_an_upload_has_the_shape_of_the_sdk_s(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> None:
    """Ready rows come out of the SDK as they come out of a sync; `is_raw` is all that it adds."""
    api, recorder = sdk
    added, session = ours[1].payload, json.loads(ours[1].form["session"])
    audience = CustomAudience(AUDIENCE, api=api)
    audience.add_users(added["schema"], added["data"], is_raw=True, pre_hashed=True, session=session)
    audience.create_user(params={"payload": added, "session": session})
    with_helper, plain = recorder.sent
    for theirs in recorder.sent:
        assert (theirs.method, theirs.path, set(theirs.form)) == ("POST", ours[1].path, set(ours[1].form))
        assert json.loads(theirs.form["session"]) == session
    assert with_helper.payload == {**added, "is_raw": True}
    assert plain.payload == added


def test_a_removal_has_the_shape_of_the_sdk_s(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> None:
    """Same payload and session. The SDK puts both into the URL of a DELETE; ours are in a form that says `DELETE`."""
    api, recorder = sdk
    removed, session = ours[2].payload, json.loads(ours[2].form["session"])
    CustomAudience(AUDIENCE, api=api).remove_users(
        removed["schema"], removed["data"], is_raw=True, pre_hashed=True, session=session
    )
    theirs = recorder.sent[0]
    assert (theirs.method, theirs.path, theirs.form) == ("DELETE", ours[2].path, {})
    assert json.loads(theirs.query["payload"]) == {**removed, "is_raw": True}
    assert json.loads(theirs.query["session"]) == session
    assert (ours[2].method, ours[2].form["method"], ours[2].query) == ("POST", "DELETE", {})


def test_the_token_is_in_no_url_of_ours(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> None:
    """The SDK sends it in the query of every call."""
    api, recorder = sdk
    CustomAudience(AUDIENCE, api=api).add_users(["EMAIL"], [["ada@example.com"]], is_raw=True)
    assert recorder.sent[0].query == {"access_token": TOKEN}
    assert [request.query for request in ours] == [{}, {}, {}]
    assert not any(TOKEN in value for request in ours for value in request.form.values())


# -- values ---------------------------------------------------------------------------------------------------


@pytest.fixture
def theirs(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> Wire:
    """What the SDK sends for everybody's raw values, in the schema of our upload."""
    api, recorder = sdk
    schema = ours[1].payload["schema"]
    CustomAudience(AUDIENCE, api=api).add_users(schema, raw_rows(PEOPLE, schema), is_raw=True)
    return recorder.sent[0]


def our_row(ours: list[Wire], unit: str) -> list[str]:
    """The row of our upload that has this cell."""
    (row,) = [row for row in ours[1].payload["data"] if unit in row]
    return list(row)


def sent_text(identifier: str, text: str | None) -> str:
    """What our cell must be for a normalised text."""
    hashed = Meta.identifiers[identifier].rule.hashed
    return "" if text is None else sha(text) if hashed else text


def test_a_plain_person_is_the_same_row(ours: list[Wire], theirs: Wire) -> None:
    """Every cell is the SDK's but one: it hashes the mobile id, which Meta's pages want in clear."""
    assert ours[1].payload["schema"] == theirs.payload["schema"] == list(FIELDS.values())
    row, (their_row, *_) = our_row(ours, sha("ada.lovelace@example.com")), theirs.payload["data"]
    differing = {name for name in FIELDS if ours[1].cell(row, name) != theirs.cell(their_row, name)}
    assert differing == {"maid"}
    assert ours[1].cell(row, "maid") == PERSON["maid"].lower()
    assert theirs.cell(their_row, "maid") == sha(PERSON["maid"].lower())


def test_a_plain_person_is_removed_by_the_same_units(ours: list[Wire], sdk: tuple[FacebookAdsApi, Recorder]) -> None:
    """A removal carries what matches alone; each such cell is the SDK's, but for the mobile id."""
    api, recorder = sdk
    removed = ours[2].payload
    CustomAudience(AUDIENCE, api=api).remove_users(
        removed["schema"], raw_rows([PERSON], removed["schema"]), is_raw=True
    )
    (row,), (their_row,) = removed["data"], json.loads(recorder.sent[0].query["payload"])["data"]
    filled = {
        field: (cell, their) for field, cell, their in zip(removed["schema"], row, their_row, strict=True) if cell
    }
    assert set(filled) == {Meta.identifiers[name].field for (name,) in Meta.units}
    assert {field for field, (cell, their) in filled.items() if cell != their} == {"MADID"}


def test_what_is_absent_is_empty(ours: list[Wire], theirs: Wire) -> None:
    """The SDK's helper hashes the empty text; ours leaves the cell empty."""
    row, their_row = our_row(ours, DIGEST.lower()), theirs.payload["data"][1]
    assert {ours[1].cell(row, name) for name in FIELDS if name != "email"} == {""}
    assert {theirs.cell(their_row, name) for name in FIELDS if name != "email"} == {sha(""), ""}
    assert theirs.cell(their_row, "external_id") == ""


def test_a_hash_is_not_hashed_again(ours: list[Wire], theirs: Wire) -> None:
    """The SDK's helper hashes whatever it is given, unless it is told that all of it is hashed."""
    assert ours[1].cell(our_row(ours, DIGEST.lower()), "email") == DIGEST.lower()
    assert theirs.cell(theirs.payload["data"][1], "email") == sha(DIGEST.lower())


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)), ids=[str(case) for case in CASES])
def test_values(number: int, case: Case, ours: list[Wire], theirs: Wire) -> None:
    """Our cell and the SDK's are what was typed here for each."""
    row = our_row(ours, companion(number))
    their_row = theirs.payload["data"][PEOPLE.index(columns(number, case))]
    assert ours[1].cell(row, case.identifier) == sent_text(case.identifier, case.ours)
    expected = case.theirs if case.identifier == "external_id" else sha(case.theirs)
    assert theirs.cell(their_row, case.identifier) == expected


def test_every_difference_is_documented() -> None:
    """The table of the page on Meta holds exactly the cases above, in order."""
    page = (REPOSITORY / "docs/reference/destinations/meta.md").read_text(encoding="utf-8")
    section = page.split("## Where the official SDK differs\n")[1].split("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    shown = [[cell.replace("`", "") for cell in line] for line in lines]
    assert shown == [
        [case.identifier, case.raw + (f" ({case.country})" if case.country else ""), case.ours or "nothing",
         case.theirs or "the hash of nothing"]
        for case in DIFFERENT
    ]  # fmt: skip
