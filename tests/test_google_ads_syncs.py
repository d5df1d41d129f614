"""Google Ads through the engine: what its list holds after jobs that refuse, fail or last, and what consent does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dbt_segments import pipeline, report
from dbt_segments.errors import ConfigError
from dbt_segments.sandbox.google_ads import GoogleAds as Platform
from dbt_segments.sandbox.server import Serving, build, serve
from dbt_segments.state.locks import Lock
from dbt_segments.values import SyncResult
from tests.one_click.case_google_ads import CASE
from tests.projects import DuckDBWarehouse
from tests.test_google_ads import key_file
from tests.world import World, make_world, sha

ADA, BOB = "ada@example.com", "bob@example.com"


@pytest.fixture
def world(tmp_path: Path, duckdb_warehouse: DuckDBWarehouse) -> Iterator[World]:
    with serve(sandbox=build(("google_ads",))) as serving:
        world = make_world(tmp_path / "shop", duckdb_warehouse, serving)
        world.segments = {"vip": {"label": "VIP buyers", "destinations": ["google_ads"]}}
        world.connections = {"google_ads": CASE.connection(f"{serving.url}/google_ads", tmp_path)}
        world.customers([(1, ADA), (2, BOB)])
        world.segment([1, 2])
        yield world
        assert platform(world).violations == []


def platform(world: World) -> Platform:
    serving = world.serving
    assert isinstance(serving, Serving)
    found = serving.sandbox.platforms["google_ads"]
    assert isinstance(found, Platform)
    return found


def emails(*addresses: str) -> set[tuple[str, str]]:
    return {("EMAIL", sha(address)) for address in addresses}


def test_a_job_of_an_hour_is_picked_up_by_a_later_run(world: World) -> None:
    """Its members are sent, not confirmed, until then, and are not sent again."""
    platform(world).policy["polls"] = 2
    results, statuses = [], []
    for _ in range(3):
        results.append(world.sync())
        statuses += pipeline.status(world.request()).syncs
    assert [one.counts.pending for one in results] == [2, 2, 0]
    assert "sent, not confirmed: 2 members" in " ".join(results[0].notes)
    assert [(one.members, one.unconfirmed) for one in statuses] == [(0, 2), (0, 2), (2, 0)]
    assert "sent, not confirmed: 2 members" in " ".join(statuses[0].notes)
    assert not statuses[2].notes or "sent, not confirmed" not in " ".join(statuses[2].notes)
    assert world.held() == emails(ADA, BOB)
    assert len(world.calls("add")) == 1


def test_the_run_that_learns_that_a_job_has_ended_says_whom_it_confirms(world: World) -> None:
    """Those who were sent, and those who were removed, once; also where the sync is not due, in its row's notes."""
    world.sync()
    waiting = world.run(now=False)
    assert waiting.syncs[0].reason == "not_due"
    assert waiting.syncs[0].notes[-1] == "confirmed: 2 members that an earlier run sent"
    assert "\n  confirmed: 2 members that an earlier run sent" in report.run_text(waiting)
    assert confirmed(world.sync()) == []
    world.customers([(1, ADA), (2, BOB), (3, "cyd@example.com")])
    world.segment([1, 3])
    world.sync()
    told = [said for _ in range(4) for said in confirmed(world.sync())]
    assert sorted(told) == [
        "confirmed: 1 member that an earlier run removed",
        "confirmed: 1 member that an earlier run sent",
    ]
    world.customers([(1, None), (2, BOB), (3, "cyd@example.com")])
    world.sync()
    assert confirmed(world.sync()) == ["confirmed: 1 member that an earlier run removed"]
    assert world.held() == emails("cyd@example.com")


def test_whom_a_job_did_not_take_is_not_confirmed(world: World) -> None:
    """Two who were refused without being named are not there."""
    world.connections["google_ads"].pop("consent")
    platform(world).policy["strict_consent"] = True
    world.sync()
    ended = world.sync()
    assert (ended.exit_code, confirmed(ended)) == (1, [])


def confirmed(result: SyncResult) -> list[str]:
    return [note for note in result.notes if note.startswith("confirmed")]


def test_a_member_that_is_refused_costs_one_member(world: World) -> None:
    """The rest is sent again at once; the refused one is a reject with Google's reason, and not sent the next time."""
    platform(world).policy["refuse"] = {sha(BOB): "INVALID_FORMAT"}
    first, second = world.sync(), world.sync()
    assert (first.counts.rejected, second.counts.rejected) == (1, 1)
    assert world.held() == emails(ADA)
    assert world.state("rejects", "key, reason") == [("2", "INVALID_FORMAT")]
    assert [call["status"] for call in world.calls("add")] == [400, 200]
    assert world.sync().status == "noop"


def test_members_that_a_job_refuses_without_naming_them_are_told(world: World) -> None:
    """The run that learns of it needs reading; the one after that does not."""
    world.connections["google_ads"].pop("consent")
    platform(world).policy["strict_consent"] = True
    first, second, third = world.sync(), world.sync(), world.sync()
    assert (first.status, third.status) == ("success", "noop")
    assert (second.status, second.exit_code) == ("partial", 1)
    assert "refused 2 members without naming them" in second.reason
    assert "warning: google_ads: members were not taken (NO_CONSENT: 2)" in second.notes
    assert world.held() == set()


def test_what_google_has_against_members_that_it_takes_is_told(world: World) -> None:
    """By the request, and by the job when it has ended; they are in all the same."""
    platform(world).policy["warn"] = "SOMETHING_ODD"
    first, second, third = world.sync(), world.sync(), world.sync()
    assert "warning: google_ads: members were taken with warnings (SOMETHING_ODD)" in first.notes
    assert "warning: google_ads: members were taken with warnings (SOMETHING_ODD: 2)" in second.notes
    assert [one.exit_code for one in (first, second, third)] == [0, 0, 0]
    assert world.held() == emails(ADA, BOB)


def test_a_list_that_is_adopted_remembers_as_long_as_ours(world: World) -> None:
    """One that forgets after 30 days is set to the longest that Google allows, and filled."""
    info = {"uploadKeyTypes": ["CONTACT_ID"], "contactIdInfo": {"dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY"}}
    form = {
        "grant_type": "refresh_token",
        "client_id": "sandbox-client",
        "client_secret": "sandbox-client-secret",
        "refresh_token": "sandbox-refresh-token",
    }
    assert world.serving is not None
    with httpx.Client(base_url=f"{world.serving.url}/google_ads") as http:
        http.headers["Authorization"] = f"Bearer {http.post('/token', data=form).json()['access_token']}"
        body = {"displayName": "By hand", "membershipDuration": "2592000s", "ingestedUserListInfo": info}
        made = http.post("/v1/accountTypes/GOOGLE_ADS/accounts/1234567890/userLists", json=body).json()
    world.segments = {"vip": {"label": "VIP buyers", "destinations": [{"to": "google_ads", "audience_id": made["id"]}]}}
    world.sync()
    world.sync()
    assert platform(world).audiences[made["id"]].retention_days == 540
    assert world.held() == emails(ADA, BOB)


def test_a_removal_that_a_job_did_not_do_wholly_stays_owed(world: World) -> None:
    """Nobody knows who is still there, so all of it is removed again."""
    world.sync()
    world.sync()
    world.segment([1])
    assert world.serving is not None
    world.serving.sandbox.faults.add({"kind": "partial", "match": {"op": "remove"}})
    results = [world.sync() for _ in range(4)]
    assert results[1].exit_code == 1
    assert results[-1].status == "noop"
    assert world.held() == emails(ADA)
    assert len(world.calls("remove")) == 2


@pytest.mark.parametrize("policy", [{"fail": "INTERNAL_ERROR"}, {"forget_jobs": True}])
def test_a_job_without_an_outcome_is_told_and_sent_again(world: World, policy: dict[str, Any]) -> None:
    """The reasons are shown; who is still wanted is sent again, and is in when that job is done."""
    platform(world).policy.update(policy)
    world.sync()
    told = world.sync()
    assert (told.status, told.exit_code) == ("partial", 1)
    assert "job_failed" in told.reason
    assert next(iter(policy.values())) is True or "INTERNAL_ERROR" in told.reason
    platform(world).policy.update(fail=None, forget_jobs=False)
    for _ in range(2):
        last = world.sync()
    assert last.status == "noop"
    assert world.held() == emails(ADA, BOB)


@pytest.mark.parametrize("op", ["add", "remove"])
def test_members_that_are_lost_on_the_way_are_not_acknowledged(world: World, op: str) -> None:
    """The job succeeds with fewer members than were sent, and no errors: nobody of the batch counts as done."""
    world.customers([(1, ADA), (2, BOB), (3, "cyd@example.com")])
    world.segment([1, 2, 3])
    if op == "remove":
        world.sync()
        world.sync()
        world.segment([1])
    platform(world).policy["lose"] = 1
    world.sync()
    told = world.sync()
    assert (told.status, told.exit_code) == ("partial", 1)
    assert f"missing: 1 of {3 if op == 'add' else 2} members" in told.reason
    platform(world).policy["lose"] = 0
    results = [world.sync() for _ in range(2)]
    assert results[-1].status == "noop"
    assert world.held() == emails(ADA, *((BOB, "cyd@example.com") if op == "add" else ()))


RENAMED = {"gold": {"label": "VIP buyers", "renamed_from": ["vip"], "destinations": ["google_ads"]}}
BACK = {"vip": {"label": "VIP buyers", "renamed_from": ["gold"], "destinations": ["google_ads"]}}


def test_a_renamed_model_takes_over_the_jobs_that_run(world: World) -> None:
    """Also that of a first sync, of which nothing is on record yet: it is asked about, and nobody is sent again."""
    platform(world).policy["polls"] = 3
    world.sync()
    world.segments = RENAMED
    world.segment([1, 2], "gold")
    results = [world.sync() for _ in range(3)]
    assert [(one.status, one.counts.pending) for one in results] == [("noop", 2), ("noop", 2), ("noop", 0)]
    assert (len(world.calls("add")), len(world.calls("poll"))) == (1, 3)
    assert world.held() == emails(ADA, BOB)


def test_a_removal_that_runs_while_its_model_is_renamed_is_done_once(world: World) -> None:
    """Whoever shares an identifier with the one who left waits for it under the new name, as under the old one."""
    world.customers([(1, ADA), (2, BOB), (3, ADA)])
    world.segment([1, 2, 3])
    world.sync()
    world.sync()
    platform(world).policy["polls"] = 2
    world.segment([1])
    assert world.sync().counts.pending == 1
    for segments, name in ((RENAMED, "gold"), (BACK, "vip")):
        world.segments = segments
        world.segment([1], name)
        last = world.sync()
        pipeline.collect(world.request(), lambda sync_id, text: None, dry_run=False)
    assert last.counts.pending == 0
    assert world.sync().status == "noop"
    assert len(world.calls("remove")) == 1
    assert world.held() == emails(ADA)
    assert len(world.audiences()) == 1


def test_a_job_that_fails_after_a_rename_is_told_and_sent_again(world: World) -> None:
    """Its members are in doubt under the new name; later generations of that name are folded as well."""
    for members in ([1], [1, 2]):
        world.segment(members)
        world.sync()
        world.sync()
    world.segment([2])
    world.sync()
    platform(world).policy["fail"] = "INTERNAL_ERROR"
    world.segments = RENAMED
    world.segment([2], "gold")
    told = world.sync()
    assert (told.status, "INTERNAL_ERROR" in told.reason) == ("partial", True)
    platform(world).policy["fail"] = None
    assert [world.sync().status for _ in range(2)] == ["noop", "noop"]
    assert world.held() == emails(BOB)


def test_a_run_that_takes_a_lock_over_keeps_the_jobs_that_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run before was killed once Google had taken its members: the seal leaves their job open."""
    platform(world).policy["polls"] = 3
    world.sync()
    hold = Lock.__init__

    def overtaken(self: Lock, *arguments: Any, **options: Any) -> None:
        hold(self, *arguments, **{**options, "overtaken": True})

    monkeypatch.setattr(Lock, "__init__", overtaken)
    results = [world.sync() for _ in range(3)]
    assert [one.counts.pending for one in results] == [2, 2, 0]
    assert len(world.calls("add")) == 1
    assert world.held() == emails(ADA, BOB)


def test_consent_by_a_column(world: World) -> None:
    """Who denies is never sent as granted; of whom nothing is known nothing is said; a change is sent."""
    world.connections["google_ads"]["consent"] = {"ad_user_data": "ads_consent", "ad_personalization": "granted"}
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, False)])
    world.sync()
    assert "refused 1 member without" in world.sync().reason
    assert world.held() == emails(ADA)
    assert world.sync().status == "noop"
    world.customers([(1, ADA, None, None, True), (2, BOB, None, None, True)])
    changed = world.sync()
    assert changed.counts.pending == 1
    world.sync()
    assert world.held() == emails(ADA, BOB)


def test_consent_by_a_column_in_a_list_of_mobile_ids(world: World) -> None:
    """A word of consent is no mobile id: those who have one are in, and nobody is refused."""
    ids = ("6D92078A-8246-4BA4-AE5B-76104861E7DC", "38400000-8CF0-11BD-B23E-10B96E40000D")
    world.connections["google_ads"] |= {
        "upload_key_type": "mobile_id",
        "app_id": "com.example.shop",
        "key_space": "ios",
        "consent": {"ad_user_data": "ads_consent", "ad_personalization": "granted"},
    }
    world.identifiers = {"idfa": "email"}
    world.customers([(1, ids[0], None, None, True), (2, ids[1], None, None, True)])
    first, _ = world.sync(), world.sync()
    assert (first.status, first.counts.rejected) == ("success", 0)
    assert world.held() == {("MOBILE_ID", one) for one in ids}


def test_consent_of_everybody_is_sent_again_when_it_changes(world: World) -> None:
    """What was sent without it was perhaps not used."""
    world.connections["google_ads"].pop("consent")
    first = world.sync()
    assert any(note.startswith("warning: consent:") for note in first.notes)
    assert any(note.startswith("warning: consent:") for note in world.plan().run.syncs[0].notes)
    world.sync()
    world.connections["google_ads"]["consent"] = {"ad_user_data": "granted", "ad_personalization": "granted"}
    assert world.sync().counts.pending == 2
    assert world.sync().status == "noop"
    assert len(world.calls("add")) == 2


def test_a_large_change_of_consent_is_held_and_named(world: World) -> None:
    """Nobody's identifiers have changed: the reason points to the connection."""
    world.connections["google_ads"].pop("consent")
    world.customers([(n, f"c{n}@example.com") for n in range(60)])
    world.segment(range(60))
    world.sync()
    world.sync()
    world.connections["google_ads"]["consent"] = {"ad_user_data": "granted", "ad_personalization": "granted"}
    held = world.sync()
    assert held.reason.startswith("too_many_changes: 60 of 60 members would change")
    assert "likely cause: the same identifiers, but what the connection says of them (`consent`)" in held.reason
    assert world.sync(allow_removals=("vip",)).counts.pending == 60


@pytest.mark.parametrize("word", ["grnted", "grant", "Denied", "denid", "dennied", "CONSENT_GRNTED", "granted "])
def test_a_misspelt_word_of_consent_is_a_mistake_of_the_file(world: World, word: str) -> None:
    """Found without a warehouse and without knowing any column, with the choices."""
    world.connections["google_ads"]["consent"] = {"ad_user_data": word, "ad_personalization": "granted"}
    (problem,) = pipeline.validate(world.request())[1]
    assert (problem.file.endswith("destinations.yml"), problem.key) == (True, "consent.ad_user_data")
    assert problem.message.endswith("must be `granted`, `denied` (in lower case), or the name of a column")
    assert world.calls() == []


def test_a_column_of_consent_that_nobody_has_is_told_with_the_words(world: World) -> None:
    """Told by the run, and by `validate` where the columns are known. A column's name may hold one of the words."""
    world.connections["google_ads"]["consent"] = {"ad_user_data": "is_granted", "ad_personalization": "granted"}
    held = world.sync()
    assert held.reason.startswith("column_missing: vip: neither it nor customers has a column is_granted")
    words = "`ad_user_data` of connection `google_ads` is `granted` or `denied`, or a column of vip or customers"
    assert words in " ".join((held.reason, *held.notes))
    assert world.audiences() == []
    columns = {name: {"name": name, "type": "text"} for name in ("customer_id", "email", "phone", "country")}
    catalog = {"nodes": {f"model.shop.{name}": {"columns": columns} for name in ("customers", "vip")}, "sources": {}}
    world.project.write("target/catalog.json", json.dumps(catalog))
    (problem,) = pipeline.validate(world.request())[1]
    assert problem.message == (
        "`ad_user_data` of connection `google_ads`: neither `vip` nor `customers` has a column `is_granted`"
    )
    assert problem.hint == "or write `granted` or `denied`"


def test_without_the_terms_nothing_is_sent(world: World) -> None:
    """The sync is held, with the remedy, before a list is made."""
    del world.connections["google_ads"]["customer_match_terms"]
    held = world.sync()
    assert (held.status, held.exit_code) == ("held", 1)
    assert held.reason.startswith("terms_not_accepted: ")
    assert "customer_match_terms: accepted" in held.reason
    assert world.audiences() == []
    (problem,) = pipeline.validate(world.request())[1]
    assert (problem.model, problem.message) == ("google_ads", held.reason)
    world.segments["vip"]["destinations"] = [{"to": "google_ads", "enabled": False}]
    assert pipeline.validate(world.request())[1] == []


def test_a_service_account_behind_a_manager(world: World, tmp_path: Path) -> None:
    """Its key is all that it needs; the manager is named in every call."""
    path, public = key_file(tmp_path)
    platform(world).policy.update(login_customer_id="9876543210", service_accounts={"robot@example.com": public})
    connection = world.connections["google_ads"]
    for name in ("client_id", "client_secret", "refresh_token"):
        del connection[name]
    connection |= {"service_account_file": str(path), "login_customer_id": "987-654-3210"}
    world.sync()
    world.sync()
    assert world.held() == emails(ADA, BOB)


def test_a_list_of_external_ids(world: World) -> None:
    """The connection says what its lists hold; contact data is then not chosen, and cannot be asked for."""
    world.identifiers = {"email": "email", "external_id": "customer_id"}
    world.connections["google_ads"]["upload_key_type"] = "user_id"
    world.sync()
    world.sync()
    assert world.held() == {("USER_ID", "1"), ("USER_ID", "2")}
    world.segments["vip"]["destinations"] = [{"to": "google_ads", "identifiers": ["email"]}]
    with pytest.raises(ConfigError, match="with the settings of this connection"):
        world.sync()


def test_a_whole_address_is_one_identifier(world: World) -> None:
    """It goes in, and out again by what was sent; a part alone is nobody."""
    world.identifiers = {name: name for name in ("email", "first_name", "last_name", "country", "postal_code")}
    world.sql(
        "create or replace table main.customers as select * from (values "
        "(1, null, 'Mrs. Ada', 'King', 'UK', 'SW1A 1AA'), (2, 'bob@example.com', 'Bob', 'Ray', null, '10001')) "
        "t(customer_id, email, first_name, last_name, country, postal_code)".replace(
            "main.", f"{world.warehouse.schema}."
        )
    )
    world.sync()
    world.sync()
    address = ("ADDRESS", f"{sha('ada')}|{sha('king')}|GB|SW1A 1AA")
    assert world.held() == emails(BOB) | {address}
    world.segment([2])
    for _ in range(2):
        world.sync()
    assert world.held() == emails(BOB)


# -- the sandbox ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"consent": {}}, ""),
        ({"unheard": 1}, "INVALID_ARGUMENT"),
        ({"termsOfService": None}, "TERMS_AND_CONDITIONS_NOT_SIGNED"),
        ({"encoding": "BASE64"}, "REQUIRED_FIELD_MISSING"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": sha(ADA)}]}}] * 10_001},
         "TOO_MANY_AUDIENCE_MEMBERS"),
        ({"audienceMembers": [{"mobileData": {"mobileIds": ["x"]}}]}, "INVALID_MOBILE_ID_FORMAT"),
        ({"audienceMembers": [{"userData": {}, "mobileData": {}}]}, "MULTIPLE_DATA_TYPES_NOT_ALLOWED"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": sha(ADA).upper()}]}}]},
         "INVALID_HEX_ENCODING"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": sha(ADA)[:40]}]}}]},
         "INVALID_SHA256_FORMAT"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": sha(ADA)}] * 11}}]},
         "TOO_MANY_USER_IDENTIFIERS"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": []}}]}, "NO_IDENTIFIERS_PROVIDED"),
        ({"audienceMembers": [{"userData": {"userIdentifiers": [{"address": {"givenName": sha("a")}}]}}]},
         "REQUIRED_FIELD_MISSING"),
        ({"audienceMembers": [{"userIdData": {"userId": "1"}}], "termsOfService": None}, "INVALID_USER_LIST_TYPE"),
    ],
)  # fmt: skip
def test_the_sandbox_refuses_what_google_refuses(change: dict[str, Any], code: str) -> None:
    """The whole request, in Google's envelope, and nothing of it is applied."""
    with serve(sandbox=build(("google_ads",))) as serving, httpx.Client(base_url=serving.url) as http:
        form = {
            "grant_type": "refresh_token",
            "client_id": "sandbox-client",
            "client_secret": "sandbox-client-secret",
            "refresh_token": "sandbox-refresh-token",
        }
        token = http.post("/token", data=form).json()["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        info = {
            "uploadKeyTypes": ["CONTACT_ID"],
            "contactIdInfo": {"dataSourceType": "DATA_SOURCE_TYPE_FIRST_PARTY"},
        }
        made = http.post(
            "/v1/accountTypes/GOOGLE_ADS/accounts/1234567890/userLists",
            json={"displayName": "VIP", "ingestedUserListInfo": info},
        ).json()
        body = {
            "destinations": [
                {
                    "operatingAccount": {"accountType": "GOOGLE_ADS", "accountId": "1234567890"},
                    "productDestinationId": made["id"],
                }
            ],
            "audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": sha(ADA)}]}}],
            "encoding": "HEX",
            "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
            **change,
        }
        body = {name: value for name, value in body.items() if value is not None}
        answer = http.post("/v1/audienceMembers:ingest", json=body)
        assert answer.status_code == (400 if code else 200), answer.text
        assert code in json.dumps(answer.json())
        assert len(platform_of(serving).jobs) == (0 if code else 1)
        if "termsOfService" in body:
            assert http.post("/v1/audienceMembers:remove", json=body).status_code == 400


def platform_of(serving: Serving) -> Platform:
    found = serving.sandbox.platforms["google_ads"]
    assert isinstance(found, Platform)
    return found
