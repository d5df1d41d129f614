"""Small edits of YAML text that leave every other byte as it was: comments, quotes, indentation, line ends.

PyYAML, which dbt reads with, says where a node begins and ends; an edit replaces or inserts text there. Writing the
whole file anew, even with a library that keeps comments, would reformat what nobody asked to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

Node = yaml.Node


class NotEditableError(Exception):
    """The text is not of a form that can be edited safely; the message says why."""


def read(path: Path) -> str:
    """The text with its own line ends."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def write(path: Path, text: str) -> None:
    """Replace the file's text at once, so that nobody reads half of it."""
    temporary = path.with_name(f".{path.name}.dbt_segments")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    temporary.replace(path)


def load(text: str) -> Any:
    """The values of the text."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NotEditableError(_words(error)) from None


def root(text: str) -> yaml.MappingNode:
    """The nodes of a text that is a mapping."""
    try:
        found = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise NotEditableError(_words(error)) from None
    if not isinstance(found, yaml.MappingNode):
        raise NotEditableError("it is no mapping")
    return found


def value_of(mapping: Node, key: str) -> Node | None:
    """The value of a key; None where there is no such key, or no mapping."""
    if not isinstance(mapping, yaml.MappingNode):
        return None
    return next((value for name, value in mapping.value if name.value == key), None)


def at(node: Node, *keys: str) -> Node | None:
    """The value below several keys."""
    found: Node | None = node
    for key in keys:
        found = value_of(found, key) if found is not None else None
    return found


def is_null(node: Node) -> bool:
    """Whether nothing, `null` or `~` is written there."""
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def require_plain(text: str, node: Node) -> None:
    """Raise NotEditableError where anchors, aliases or merge keys make the node's text stand for more than itself."""
    begin, end = node.start_mark.index, node.end_mark.index
    for token in yaml.scan(text):
        if not begin <= token.start_mark.index <= end:
            continue
        if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
            raise NotEditableError(f"line {token.start_mark.line + 1}: an anchor or alias (& or *)")
        if isinstance(token, yaml.ScalarToken) and token.plain and token.value == "<<":
            raise NotEditableError(f"line {token.start_mark.line + 1}: a merge key (<<)")


def flow(value: Any) -> str:
    """A value on one line, as it stands inside a list or mapping."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def block(value: Any) -> list[str]:
    """A value on lines of its own; lists indented as dbt's own examples are."""
    text = yaml.dump(
        value, Dumper=_Indented, default_flow_style=False, sort_keys=False, allow_unicode=True, width=10_000
    )
    return text.splitlines()


def text_of(text: str, node: Node) -> str:
    """A scalar or a flow collection as it is written, quotes included."""
    return text[node.start_mark.index : node.end_mark.index]


def replaced(text: str, node: Node, new: str) -> str:
    """The text with a scalar or a flow collection replaced by `new`, which is on one line."""
    begin, end = node.start_mark.index, node.end_mark.index
    if begin == end and text[begin - 1 : begin] == ":":  # `key:` with nothing behind it
        new = f" {new}"
    return text[:begin] + new + text[end:]


def with_item(text: str, sequence: Node, lines: Sequence[str]) -> str:
    """The text with one more item at the end of a list."""
    assert isinstance(sequence, yaml.SequenceNode)
    if sequence.flow_style:
        return _into_flow(text, sequence, sequence.value[-1] if sequence.value else None, lines)
    indent = " " * sequence.start_mark.column
    return _inserted(text, sequence, [f"{indent}- {lines[0]}", *(f"{indent}  {line}" for line in lines[1:])])


def with_key(text: str, mapping: Node, key: str, value: Any) -> str:
    """The text with one more key at the end of a mapping."""
    assert isinstance(mapping, yaml.MappingNode)
    one_line = f"{key}: {flow(value)}"
    if mapping.flow_style:
        return _into_flow(text, mapping, mapping.value[-1][1] if mapping.value else None, [one_line])
    is_list_of_blocks = isinstance(value, list) and any(isinstance(item, dict) for item in value)
    lines = block({key: value}) if is_list_of_blocks or isinstance(value, dict) else [one_line]
    indent = " " * mapping.start_mark.column
    return _inserted(text, mapping, [indent + line for line in lines])


def without_last_key(text: str, mapping: Node, key: str) -> str | None:
    """The text without a mapping's last key; None where it is not the last, the only one, or not alone on its line."""
    assert isinstance(mapping, yaml.MappingNode)
    if len(mapping.value) < 2 or mapping.value[-1][0].value != key:
        return None
    (name, value), before = mapping.value[-1], mapping.value[-2][1]
    if mapping.flow_style:
        return text[: before.end_mark.index] + text[value.end_mark.index :]
    begin = text.rfind("\n", 0, name.start_mark.index) + 1
    end = text.find("\n", value.end_mark.index) + 1 or len(text)
    alone = not text[begin : name.start_mark.index].strip() and not text[value.end_mark.index : end].strip()
    return text[:begin] + text[end:] if alone else None


def _into_flow(text: str, node: Node, last: Node | None, lines: Sequence[str]) -> str:
    if len(lines) > 1:
        raise NotEditableError(f"line {node.start_mark.line + 1}: a list or mapping on one line")
    if last is None:
        begin = node.start_mark.index + 1
        return text[:begin] + lines[0] + text[begin:]
    end = last.end_mark.index
    return f"{text[:end]}, {lines[0]}{text[end:]}"


def _inserted(text: str, node: Node, lines: Sequence[str]) -> str:
    """The lines after the node's last one. A block's own end mark lies behind the comments that follow it."""
    newline = "\r\n" if "\r\n" in text else "\n"
    end = max(leaf.end_mark.index for leaf in _leaves(node))
    if text[end - 1 : end] != "\n":  # a text block ends on the next line already
        found = text.find("\n", end)
        end = len(text) if found < 0 else found + 1
    before = text[:end]
    if before and not before.endswith("\n"):
        before += newline
    return before + "".join(line + newline for line in lines) + text[end:]


def _leaves(node: Node) -> Iterator[Node]:
    """Nodes whose end mark is where their text ends."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        for name, value in node.value:
            yield name
            yield from _leaves(value)
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style:
        for item in node.value:
            yield from _leaves(item)
    else:
        yield node


class _Indented(yaml.SafeDumper):
    """Lists indented below their key; short mappings without structure inside on one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _words(error: yaml.YAMLError) -> str:
    """Where, never PyYAML's own text, which quotes the line."""
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1} is not valid YAML" if mark is not None else "it is not valid YAML"
