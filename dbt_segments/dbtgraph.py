"""dbt's own selection, run on manifest.json: whatever a selector means to `dbt run`, it means here.

It costs dbt's reading of the whole manifest, so `select` asks for it only where a selector is more than a known name.
Source: `dbt.graph` and `dbt.contracts.state` of dbt-core 1.10 to 1.12, which have no public interface for this.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dbt_segments.errors import ConfigError, ManifestError
from dbt_segments.settings import Options
from dbt_segments.spelling import suggest

_HINT = "as in dbt: names, tag:, path:, source:, config., state:modified, `+` and `@`, `,` for both"
_COMPARED = ("state", "result", "source_status")


class DbtGraph:
    """The nodes that a selector means; everything is read when it is first asked.

    selectors  name -> dbt's definition, from selectors.yml
    """

    def __init__(self, options: Options, selectors: Mapping[str, Any]) -> None:
        self._options = options
        self._selectors = selectors

    def term(self, text: str) -> set[str]:
        """unique_ids of one selector without a comma. Raises ConfigError where dbt does not understand it."""
        from dbt.graph.selector_spec import SelectionCriteria

        with self._understood(f"selector `{text}`"):
            spec = SelectionCriteria.from_single_spec(text)
            if not spec.value or spec.method not in self._nodes.SELECTOR_METHODS:
                raise ConfigError(f"selector `{text}` is not understood", hint=_HINT)
            if spec.method in _COMPARED and self._options.state is None:
                raise ConfigError(
                    f"selector `{text}` compares with an earlier run",
                    hint="name the folder of its artifacts: --state DIR",
                )
            return set(self._nodes.select_nodes(spec)[0])

    def named(self, name: str) -> set[str]:
        """unique_ids of a selector of selectors.yml."""
        if name not in self._selectors:
            raise ConfigError(
                f"--selector: there is no `{name}` in selectors.yml", hint=suggest(name, list(self._selectors)) or None
            )
        with self._understood(f"--selector {name}"):
            return set(self._nodes.select_nodes(self._selectors[name]["definition"], warn_on_no_nodes=False)[0])

    @cached_property
    def _nodes(self) -> Any:
        from dbt.compilation import Linker
        from dbt.contracts.state import PreviousState
        from dbt.graph.graph import Graph
        from dbt.graph.selector import NodeSelector

        options = self._options
        manifest = _manifest(options.target_path)
        previous = None
        if options.state is not None:
            if not (options.state / "manifest.json").is_file():
                raise ConfigError(
                    f"--state: there is no manifest.json in {options.state}",
                    hint="name the folder that holds the artifacts of an earlier run",
                )
            previous = PreviousState(options.state, options.target_path, options.project_dir)
        linker = Linker()
        linker.link_graph(manifest)
        arguments: dict[str, Any] = {"previous_state": previous}
        if "selectors" in inspect.signature(NodeSelector).parameters:  # since 1.12, for the method `selector:`
            arguments["selectors"] = self._selectors
        return NodeSelector(Graph(linker.graph), manifest, **arguments)

    @contextlib.contextmanager
    def _understood(self, what: str) -> Iterator[None]:
        """dbt's errors as ours; and the project's folder, which `path:` is relative to."""
        from dbt_common.events.contextvars import task_contextvars
        from dbt_common.exceptions import DbtBaseException

        try:
            with task_contextvars(project_root=str(self._options.project_dir)):
                yield
        except DbtBaseException as error:
            raise ConfigError(f"{what}: {' '.join(str(error).split())}", hint=_HINT) from None


def _manifest(target_path: Path) -> Any:
    """manifest.json as dbt's own object."""
    from dbt.artifacts.schemas.manifest import WritableManifest
    from dbt.contracts.graph.manifest import Manifest

    try:
        written = WritableManifest.read_and_check_versions(str(target_path / "manifest.json"))
    except (LookupError, TypeError, ValueError) as error:  # how dbt's own reader fails on what it does not know
        raise ManifestError(
            f"{target_path / 'manifest.json'}: the installed dbt-core cannot read it ({type(error).__name__})",
            hint="run `dbt parse` with this dbt; names and `tag:` alone can be selected without it",
        ) from None
    return Manifest.from_writable_manifest(written)
