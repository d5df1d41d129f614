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
        (["*e*s"], [BIG, NEW]),
        (["tag:marketing"], [LAPSED, LAPSED_X, NEW]),
        (["tag:win*"], [LAPSED, LAPSED_X]),
        (["path:models/segments"], [LAPSED, LAPSED_X, BIG, NEW]),
        (["path:models/segments/new/"], [NEW]),
        (["path:models/segments/big_spenders.sql"], [BIG]),
        (["path:models/seg"], []),
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
def test_select(select: list[str], expected: list[str]) -> None:
    """A selector means what dbt's own would, and the registry's order is kept."""
    selection = select_syncs(_registry(), select)
    assert [sync.id for sync in selection.syncs] == expected
    assert bool(selection.unmatched) is (not expected)


def test_exclude_wins() -> None:
    """What is both selected and excluded does not run."""
    assert [sync.id for sync in select_syncs(_registry(), ["tag:marketing"], ["*.x"]).syncs] == [LAPSED, NEW]
    assert [sync.id for sync in select_syncs(_registry(), (), ["lapsed newcomers"]).syncs] == [BIG]


def test_selectors_that_match_nothing_are_told() -> None:
    """A typing mistake is not taken for "nothing to do"."""
    assert select_syncs(_registry(), ["lapsd", "big_spenders"], ["tag:nothing"]).unmatched == ("lapsd", "tag:nothing")


@pytest.mark.parametrize(
    "selector", ["state:modified", "config.materialized:table", "@lapsed", "result:error+", "a,,b", "tag:"]
)
def test_other_methods_are_refused(selector: str) -> None:
    """Nothing is guessed of what is not supported, and the message says what is."""
    with pytest.raises(ConfigError) as caught:
        select_syncs(_registry(), [selector])
    assert "tag:" in (caught.value.hint or "")
