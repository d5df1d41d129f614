"""Nearest spellings, and pydantic's errors said as key, message and hint without any of the user's values."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

_MESSAGES = {
    "missing": "is required",
    "extra_forbidden": "unknown key",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "string_pattern_mismatch": "must be letters, digits and underscores, and must not start with a digit",
}


@dataclass(frozen=True)
class Mistake:
    """One thing that a pydantic model refuses. `kind` is pydantic's own word for it, e.g. "missing"."""

    key: str
    message: str
    hint: str
    kind: str


def nearest(word: object, known: Collection[str]) -> str:
    """ "did you mean `x`?" for the known word that is spelled most like it; empty where none is close."""
    lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(str(word).lower(), lower, n=1, cutoff=0.6)
    return f"did you mean `{lower[match[0]]}`?" if match else ""


def suggest(word: object, known: Collection[str]) -> str:
    """The nearest spelling, or all known words where none is close."""
    return nearest(word, known) or (f"known: {', '.join(known)}" if known else "")


def is_slip(word: object, known: str) -> bool:
    """Whether this is `known` with a slip of a letter or two: nearer than what others may call a thing of their own."""
    text = str(word)
    return text != known and difflib.SequenceMatcher(None, text.lower(), known).ratio() >= 0.9


def dotted(parts: tuple[int | str, ...]) -> str:
    """A path as people write it: ("a", 0, "b") is "a[0].b"."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]":  # pydantic's own way to say "the key itself"
            text += f".{part}" if text else str(part)
    return text


def mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[Mistake]:
    """Every mistake that pydantic found in one input of `model`; no message holds a value of that input."""
    for item in error.errors(include_url=False):
        location, kind = item["loc"], item["type"]
        context: Mapping[str, Any] = item.get("ctx", {})
        message, hint = _MESSAGES.get(kind, item["msg"].removeprefix("Value error, ")), ""
        if kind == "extra_forbidden":
            hint = suggest(location[-1], list(_keys_at(model, location[:-1])))
        elif kind == "literal_error":
            message = f"must be {context['expected']}"
            hint = nearest(item["input"], re.findall(r"'([^']+)'", context["expected"]))
        elif kind == "string_type" and isinstance(item["input"], bool):
            hint = 'YAML reads yes, no, on and off as true and false: put it in quotes, as in "NO"'
        elif kind == "string_type" and isinstance(item["input"], int | float):
            hint = "put it in quotes"
        yield Mistake(dotted(location), message, hint, kind)


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[str]:
    """The keys that the model nested at `location` knows."""
    inner: Any = model
    for part in location:
        inner = _step(inner, part)
    inner = _model(inner)
    if inner is not None:
        for name, field in inner.model_fields.items():
            yield field.alias or name


def _step(annotation: Any, part: int | str) -> Any:
    """The annotation of one key or item of a value of type `annotation`."""
    model = _model(annotation)
    if model is not None:
        by_key = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
        return by_key.get(str(part))
    for candidate in _options(annotation):
        arguments = [argument for argument in get_args(candidate) if argument is not Ellipsis]
        if arguments:
            return arguments[-1]
    return None


def _options(annotation: Any) -> tuple[Any, ...]:
    """The annotation without `Annotated`, or each side of a union."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(option for side in get_args(annotation) for option in _options(side))
    return (annotation,)


def _model(annotation: Any) -> type[BaseModel] | None:
    for option in _options(annotation):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
