"""Audiences from dbt models. Importing this costs nothing: dbt imports it in every command."""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`plugins`, made when dbt asks for it. Trouble becomes a warning: dbt would fail with whatever is raised here."""
    if name != "plugins":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: list[type] = []
    try:
        from dbt_segments.plugin import SegmentsPlugin

        found = [SegmentsPlugin]
    except Exception as error:
        from dbt_segments.events import tell

        tell(f"not loaded, so nothing is synced inside dbt: {type(error).__name__}: {error}", "warn")
    globals()["plugins"] = found  # dbt asks twice
    return found
