"""Where files go: a root that nothing leaves, and names made from a template.

Names hold the run and a part number, so a repeat overwrites its own file and nobody else's.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

DEFAULT = "{sync}/{run_date}/{run_id}/{segment}-{part:05d}.{ext}"
KNOWN = ("sync", "segment", "run_id", "run_date", "part", "ext")
# Without one of these two files could get one name.
NEEDED = ("sync", "run_id", "part")
_OF_A_RUN = ("{run_id", "{run_date", "{part")
_UNSAFE = re.compile(r"[^\w.~ -]")
_PLACE = re.compile(r"\{(\w+)")


@dataclass(frozen=True)
class Names:
    """A `path` setting, taken apart.

    scheme    of an fsspec URL; `file` for a folder
    root      what stands before the first placeholder: a folder, or a bucket with a prefix
    template  the rest, with `/` between its parts
    """

    scheme: str
    root: str
    template: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.root}"

    def part(self, *, suffix: str, number: int, ext: str, sync: str, segment: str, run_id: str, run_date: str) -> str:
        """The path of one part below the root; `suffix` follows the number."""
        values = {"sync": safe(sync), "segment": safe(segment), "run_id": safe(run_id), "run_date": run_date}
        return self.template.format(**values, part=_Part(number, suffix), ext=ext)

    def manifest(self, part: str, sync: str, run_id: str) -> str:
        """Beside the parts; where several syncs or runs share their folder, under a name of its own."""
        folders = self.template.rpartition("/")[0]
        own = {"sync", "run_id"} <= set(_PLACE.findall(folders))
        return _join(
            part.rpartition("/")[0], "_manifest.json" if own else f"_manifest-{safe(sync)}-{safe(run_id)}.json"
        )

    def latest(self, part: str, sync: str) -> str:
        """The pointer to the newest whole set: in the deepest folder that all runs of a sync share."""
        shared = 0
        for folder in self.template.split("/")[:-1]:
            if any(place in folder for place in _OF_A_RUN):
                break
            shared += 1
        own = "sync" in _PLACE.findall("/".join(self.template.split("/")[:shared]))
        return _join("/".join(part.split("/")[:shared]), "_latest.json" if own else f"_latest-{safe(sync)}.json")


class _Part:
    """A part's number, formatted as the template says, and what makes it unique."""

    def __init__(self, number: int, suffix: str) -> None:
        self._number = number
        self._suffix = suffix

    def __format__(self, spec: str) -> str:
        return format(self._number, spec) + self._suffix


def names_of(path: str) -> Names:
    """A `path` setting as names. Raises ValueError that says what is wrong with it."""
    scheme, _, rest = path.partition("://") if "://" in path else ("file", "", path)
    if "{" not in rest and "}" not in rest:
        root, template = rest.rstrip("/") or rest[:1], DEFAULT
    else:
        head, _, _ = rest.partition("{")
        root, _, _ = head.rpartition("/")
        template = rest[len(root) :].lstrip("/")
        root = root or ("/" if rest.startswith("/") else ".")
    _check_template(template)
    if ".." in (*root.split("/"), *template.split("/"), *root.split("\\"), *template.split("\\")):
        raise ValueError("must not hold `..`")
    if not root:
        raise ValueError("names no folder or bucket")
    return Names(scheme, root, template)


def _check_template(template: str) -> None:
    try:
        places = [
            (name, spec, change) for _, name, spec, change in string.Formatter().parse(template) if name is not None
        ]
    except ValueError:
        raise ValueError("holds a brace without its partner") from None
    for name, spec, change in places:
        if name not in KNOWN:
            raise ValueError(f"holds an unknown name; known: {', '.join(f'{{{one}}}' for one in KNOWN)}")
        if change or (spec and not (name == "part" and re.fullmatch(r"0?\d{0,2}d?", spec))):
            raise ValueError("only {part} takes a format, such as {part:05d}")
    missing = [name for name in NEEDED if name not in {name for name, _, _ in places}]
    if missing:
        raise ValueError(f"must hold {', '.join(f'{{{one}}}' for one in missing)}, or files would overwrite each other")


def safe(text: str) -> str:
    """A text as one part of a path: two texts never become one name, and none leads elsewhere."""
    escaped = _UNSAFE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
    return escaped.replace(".", "%2E") if not escaped.strip(". ") else escaped


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name
