"""--select and --exclude."""

from __future__ import annotations

import pytest

from dbt_segments.errors import ConfigError
from dbt_segments.select import select_syncs
from dbt_segments.values import Connection, Entity, Model, Registry, Segment, Sync


def _model(name: str, folder: str, *parents: str) -> Model:
    return Model(
        f"model.shop.{name}",
        name,
        "model",
        "shop",
        f'"{name}"',
        f"models/{folder}/{name}.sql",
        depends_on=tuple(f"model.shop.{parent}" for parent in parents),
    )


MODELS = [
    _model("stg_orders", "staging"),
    _model("customers", "marts"),
    _model("orders", "marts", "stg_orders"),
    _model("lapsed_v2", "segments", "orders", "customers"),
    _model("big_spenders", "segments", "orders"),
    _model("newcomers", "segments/new", "customers"),
]


def _registry() -> Registry:
    entity = Entity("customer", "person", MODELS[1], "customer_id")
    connections = [Connection("meta", "meta", None), Connection("x", "x", None)]
    labels = {"lapsed_v2": "lapsed", "big_spenders": "big_spenders", "newcomers": "newcomers"}
    segments = [Segment(labels[model.name], "", model, entity) for model in MODELS if model.name in labels]
    syncs = [
        Sync(f"shop.{segment.model.name}.{connection.name}", segment, connection, True, (), segment.label)
        for segment in segments
        for connection in connections
        if connection.name == "meta" or segment.name == "lapsed"
    ]
    return Registry(
        "shop",
        (entity,),
        tuple(segments),
        tuple(syncs),
        models={model.unique_id: model for model in MODELS},
        tags={"model.shop.lapsed_v2": ("marketing", "win_back"), "model.shop.newcomers": ("marketing",)},
    )


class Dbt:
    """Stands in for dbt: what it was asked, and a fixed answer; tests/e2e/test_select.py asks the real one."""

    def __init__(self, *nodes: str) -> None:
        self.nodes = {f"model.shop.{node}" for node in nodes}
        self.asked: list[str] = []

    def term(self, text: str) -> set[str]:
        self.asked.append(text)
        return set(self.nodes)

    def named(self, name: str) -> set[str]:
        return self.term(f"--selector {name}")


LAPSED, LAPSED_X = "shop.lapsed_v2.meta", "shop.lapsed_v2.x"
BIG, NEW = "shop.big_spenders.meta", "shop.newcomers.meta"


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ([], [LAPSED, LAPSED_X, BIG, NEW]),
        (["lapsed"], [LAPSED, LAPSED_X]),
        (["lapsed_v2"], [LAPSED, LAPSED_X]),
        (["lapsed_v2.v2"], []),
        (["lapsed.v2"], [LAPSED, LAPSED_X]),
        (["shop.lapsed_v2.x"], [LAPSED_X]),
        (["*.meta"], [LAPSED, BIG, NEW]),
        (["tag:marketing"], [LAPSED, LAPSED_X, NEW]),
        (["tag:win*"], [LAPSED, LAPSED_X]),
        (["orders+"], [LAPSED, LAPSED_X, BIG]),
        (["stg_orders+"], [LAPSED, LAPSED_X, BIG]),
        (["stg_orders+1"], []),
        (["stg_orders+2"], [LAPSED, LAPSED_X, BIG]),
        (["+lapsed"], [LAPSED, LAPSED_X]),
        (["tag:marketing,customers+"], [LAPSED, LAPSED_X, NEW]),
        (["tag:marketing,*.meta"], [LAPSED, NEW]),
        (["big_spenders newcomers"], [BIG, NEW]),
        (["newcomers", "big_spenders"], [BIG, NEW]),
        (["customers"], []),
    ],
)
def test_known_names_and_tags(select: list[str], expected: list[str]) -> None:
    """What is a name or a plain tag needs no dbt, and the registry's order is kept."""
    dbt = Dbt()
    selection = select_syncs(_registry(), dbt, select)
    assert [sync.id for sync in selection.syncs] == expected
    assert bool(selection.unmatched) is (not expected)
    assert dbt.asked == [part for text in select for part in text.split(",") if part in ("*.meta", "lapsed_v2.v2")]


@pytest.mark.parametrize(
    ("term", "asked"),
    [
        ("state:modified+", ["state:modified+"]),
        ("+tag:marketing", ["+tag:marketing"]),
        ("config.materialized:table", ["config.materialized:table"]),
        ("@orders", ["@orders"]),
        ("shop.segments", ["shop.segments"]),
        ("segments", ["segments"]),
        ("new*", ["new*"]),
        ("@lapsed", ["@lapsed", "@fqn:lapsed_v2"]),
    ],
)
def test_the_rest_is_asked_of_dbt(term: str, asked: list[str]) -> None:
    """Methods, `@`, wildcards and folders have dbt's meaning; a segment's own name is asked for by its model's."""
    dbt = Dbt("big_spenders", "orders")
    assert [sync.id for sync in select_syncs(_registry(), dbt, [term]).syncs] == [BIG]
    assert dbt.asked == asked


def test_an_intersection_of_both_kinds() -> None:
    """Each term of a comma is found in its own way."""
    selected = select_syncs(_registry(), Dbt("big_spenders", "lapsed_v2"), ["state:modified,tag:marketing"])
    assert [sync.id for sync in selected.syncs] == [LAPSED, LAPSED_X]


def test_a_named_selector_stands_alone() -> None:
    """`--selector` is dbt's; together with --select it is a mistake."""
    assert [sync.id for sync in select_syncs(_registry(), Dbt("newcomers"), selector="nightly").syncs] == [NEW]
    with pytest.raises(ConfigError, match="stands alone"):
        select_syncs(_registry(), Dbt(), ["lapsed"], selector="nightly")


def test_exclude_wins() -> None:
    """What is both selected and excluded does not run."""
    assert [s.id for s in select_syncs(_registry(), Dbt(), ["tag:marketing"], ["*.x"]).syncs] == [LAPSED, NEW]
    assert [s.id for s in select_syncs(_registry(), Dbt(), (), ["lapsed newcomers"]).syncs] == [BIG]


def test_selectors_that_match_nothing_are_told() -> None:
    """A typing mistake is not taken for "nothing to do"; that nothing was modified is no mistake."""
    found = select_syncs(_registry(), Dbt(), ["lapsd", "big_spenders", "state:modified+"], ["tag:nothing"])
    assert found.unmatched == ("lapsd", "tag:nothing")
    assert [sync.id for sync in found.syncs] == [BIG]
    assert select_syncs(_registry(), Dbt(), ["state:new", "tag:marketing,state:modified"]).unmatched == ()


@pytest.mark.parametrize("selector", ["a,,b", "tag:", "+", "lapsed,"])
def test_halves_of_selectors_are_refused(selector: str) -> None:
    """A selector with a gap in it starts nothing."""
    with pytest.raises(ConfigError, match="is not understood"):
        select_syncs(_registry(), Dbt(), [selector])
