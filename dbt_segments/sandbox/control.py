"""`/_sandbox`: what tests ask and set. JSON in, JSON out.

    GET    state[?keys=0]            audiences with people and keys, policies, violations, faults still waiting
    GET    audiences/{id}/members    people of one audience, with the keys given for each
    GET    calls[?last=N]            the newest calls: method, path, op, rows, status; never members or secrets
    POST   people                    [{"id", "identifiers": [[field, value], ...]}]: persons the platform knows
    POST   faults                    one fault or a list, see `faults`;  DELETE faults forgets the waiting ones
    POST   policy                    {"name": value}; `latency_s`, `minimum_members`, and the platform's own
    POST   clock                     {"advance_s": n}
    POST   audiences/{id}/foreign    {"rows": [[[field, value], ...], ...]}: members somebody else put in
    DELETE audiences/{id}            behind the sender's back
    POST   reset                     as new
    POST   save                      write the state file, if there is one

`people` and `policy` are the first platform's unless `?platform=` names another. An identifier is in `keys` if its
person is in and it was given since that person came in.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_segments.sandbox.platform import Answer, Audience, Platform, Request

if TYPE_CHECKING:
    from dbt_segments.sandbox.app import Sandbox


def answer(sandbox: Sandbox, request: Request) -> Answer:
    """Route one control request; wrong input is a 400 with the reason."""
    parts = request.path.split("/")[2:]
    try:
        if parts[0] == "audiences" and len(parts) >= 2:
            return _audience(sandbox, request, parts[1], "/".join(parts[2:]))
        handler = _ROUTES.get((request.method, "/".join(parts)))
        if handler is None:
            return Answer(404, {"detail": "no such call; see dbt_segments.sandbox.control"})
        return Answer(200, handler(sandbox, request))
    except (KeyError, TypeError, ValueError) as error:
        return Answer(400, {"detail": f"{type(error).__name__}: {error}"})


def state(sandbox: Sandbox, keys: bool = True) -> dict[str, Any]:
    """Everything tests assert on; `keys` lists every identifier, which is much for a large audience."""
    for platform in sandbox.platforms.values():
        platform.expire()
    return {
        "now": sandbox.clock.now(),
        "calls": sandbox.made,
        "faults": sandbox.faults.waiting(),
        "policy": {platform.name: platform.policy for platform in sandbox.platforms.values()},
        "violations": {platform.name: platform.violations for platform in sandbox.platforms.values()},
        "reports": {platform.name: platform.report() for platform in sandbox.platforms.values()},
        "audiences": [
            _facts(platform, audience, keys)
            for platform in sandbox.platforms.values()
            for audience in platform.audiences.values()
        ],
    }


def save(sandbox: Sandbox, path: str) -> None:
    """Write audiences, people and policies, whole or not at all."""
    data = {name: platform.dump() for name, platform in sandbox.platforms.items()}
    handle, scratch = tempfile.mkstemp(dir=Path(path).resolve().parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"format": 1, "platforms": data}, file)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink()
        raise


def load(sandbox: Sandbox, path: str) -> None:
    """Read what `save` wrote; platforms that are not in the file stay empty."""
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if data.get("format") != 1:
        raise ValueError(f"{path}: not a state file of this sandbox")
    for name, platform in sandbox.platforms.items():
        if name in data["platforms"]:
            platform.restore(data["platforms"][name])


def _facts(platform: Platform, audience: Audience, keys: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "platform": platform.name,
        "id": audience.id,
        "account": audience.account,
        "name": audience.name,
        "description": audience.description,
        "deleted": audience.deleted,
        "people": audience.members.count,
        "persons": audience.members.persons,
    }
    if keys:
        facts["keys"] = sorted(list(platform.codec.decode(key)) for key in audience.members.given())
    return facts


def _audience(sandbox: Sandbox, request: Request, audience_id: str, rest: str) -> Answer:
    for platform in sandbox.platforms.values():
        audience = platform.audiences.get(audience_id)
        if audience is None:
            continue
        if (request.method, rest) == ("GET", "members"):
            platform.expire()
            return Answer(200, _members(platform, audience))
        if (request.method, rest) == ("POST", "foreign"):
            for row in _body(request)["rows"]:
                audience.members.add([platform.codec.encode(*pair) for pair in row], sandbox.clock.today())
            return Answer(200, {"people": audience.members.count})
        if (request.method, rest) == ("DELETE", ""):
            audience.deleted = True
            return Answer(200, {})
    return Answer(404, {"detail": "no such audience"})


def _members(platform: Platform, audience: Audience) -> dict[str, Any]:
    decode = platform.codec.decode
    people = [
        {"person": person, "keys": sorted(list(decode(key)) for key in keys)}
        for person, keys in audience.members.records()
    ]
    return {"members": people}


def _body(request: Request) -> Any:
    return json.loads(request.body or b"{}")


def _platform(sandbox: Sandbox, request: Request) -> Platform:
    name = request.query.get("platform") or next(iter(sandbox.platforms))
    return sandbox.platforms[name]


def _state(sandbox: Sandbox, request: Request) -> Any:
    return state(sandbox, keys=request.query.get("keys") != "0")


def _calls(sandbox: Sandbox, request: Request) -> Any:
    last = int(request.query.get("last", 1000))
    return {"made": sandbox.made, "calls": list(sandbox.calls)[-last:] if last else []}


def _people(sandbox: Sandbox, request: Request) -> Any:
    platform = _platform(sandbox, request)
    for person in _body(request):
        platform.people.seed(person["id"], [platform.codec.encode(*pair) for pair in person["identifiers"]])
    return {"owned": len(platform.people.owners)}


def _add_faults(sandbox: Sandbox, request: Request) -> Any:
    sandbox.faults.add(_body(request))
    return {"faults": sandbox.faults.waiting()}


def _clear_faults(sandbox: Sandbox, request: Request) -> Any:
    sandbox.faults.clear()
    return {}


def _policy(sandbox: Sandbox, request: Request) -> Any:
    platform, wanted = _platform(sandbox, request), _body(request)
    unknown = sorted(wanted.keys() - platform.policy.keys())
    if unknown:
        raise ValueError(f"no such policy: {', '.join(unknown)}; there are {', '.join(platform.policy)}")
    platform.policy.update(wanted)
    return platform.policy


def _clock(sandbox: Sandbox, request: Request) -> Any:
    sandbox.clock.advance(float(_body(request)["advance_s"]))
    return {"now": sandbox.clock.now()}


def _reset(sandbox: Sandbox, request: Request) -> Any:
    sandbox.reset()
    return {}


def _save(sandbox: Sandbox, request: Request) -> Any:
    if sandbox.state_file is None:
        raise ValueError("started without a state file")
    save(sandbox, sandbox.state_file)
    return {"file": sandbox.state_file}


_ROUTES: dict[tuple[str, str], Callable[[Sandbox, Request], Any]] = {
    ("GET", "state"): _state,
    ("GET", "calls"): _calls,
    ("POST", "people"): _people,
    ("POST", "faults"): _add_faults,
    ("DELETE", "faults"): _clear_faults,
    ("POST", "policy"): _policy,
    ("POST", "clock"): _clock,
    ("POST", "reset"): _reset,
    ("POST", "save"): _save,
}
