"""How each warehouse keeps a list of texts. The one place to teach another warehouse's arrays, JSON or super type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lists:
    """SQL for a list of texts; `{}` stands for an expression.

    type       of a column that holds one
    collected  aggregate of a text column, sorted by code points whatever the database's collation, never null
    items      in a select list: one row per item
    """

    type: str
    collected: str
    items: str
    empty: str


_BY_KIND = {
    "duckdb": Lists(
        type="varchar[]",
        collected="list_sort(list({}))",
        items="unnest({})",
        empty="cast([] as varchar[])",
    ),
    "postgres": Lists(
        type="text[]",
        collected='array_agg(cast({0} as text) order by {0} collate "C")',
        items="unnest({})",
        empty="cast('{}' as text[])",
    ),
}


def lists_of(kind: str) -> Lists:
    """The lists of a warehouse, by its adapter's name; every supported one has them."""
    return _BY_KIND[kind]
