"""The made-up platform's API, as a platform of the sandbox: everything that Meta is not, one shape per path prefix.

    POST  /<shape>/token                  form: grant_type, client_id, client_secret, refresh_token
                                          -> {"access_token", "expires_in", "refresh_token"}
    POST  /<shape>/v1/lists               {"name", "mark"} -> 201 {"id", "name", "mark", "account"}
    GET   /<shape>/v1/lists?mark=&name=   {"lists": [...]} of those with either
    GET   /<shape>/v1/lists/{id}          the same object, "size", "match_rate" and "used"
    PATCH /<shape>/v1/lists/{id}          {"mark"}
    DELETE /<shape>/v1/lists/{id}         {}
    POST  /<shape>/v1/lists/{id}/members  {"op", "batch": {"id", "session", "number", "last"}, "fields", "rows"}
                                          -> {"received", "refused": [{"index", "code"}]}, or 202 {"job"}
    POST  /<shape>/v1/lists/{id}/use      {} -> {}: the list is in use from now on
    POST  /<shape>/v1/lists/{id}/sweep    {"before"} (ISO) -> 202 {"job"}: whoever was put in last before that goes
    GET   /<shape>/v1/jobs/{id}           {"state": "running" | "failed"} or {"state": "done", "refused": [...]}

In the shape `scripted_born` POST lists takes `members`, too, which is what .../members takes.

Errors are {"error": {"code", "message"}}. Faults as in `dbt_segments.sandbox.faults`; policies:

    finish_after_polls   a job is applied and done at this poll (1)
    stagger              of so many jobs in a row each is done one poll before the one that was sent before it (1)
    fail_after_polls     it fails at this poll, nothing applied; lose_after_polls: its status is gone (null: never)
    lost_applied         whether a job whose status is lost was applied before (false)
    refuse               {value: code}: rows with such a value are refused by index
    expires_in_s         life of an access token (3600); rotate: each refresh ends the old refresh token (true)
    use_from             people from which on a list may be put to use (0)
    refresh_ok           whether refresh tokens are still good (true)
    match_rate           what a list says of itself (null)

`reports` in /_sandbox/state tells of jobs, of lists in use, of batches applied more than once (`repeated`) and of those
recognised (`replayed`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Literal

from dbt_segments.sandbox import Serving, serve
from dbt_segments.sandbox.app import Sandbox
from dbt_segments.sandbox.faults import Fault
from dbt_segments.sandbox.people import Codec, Key, Members
from dbt_segments.sandbox.platform import Answer, Audience, Clock, Platform, Refusal, Request

MAX_ROWS = 1_000
TOKEN = "scripted-token"
REFRESH_TOKEN = "refresh-0"
_DIGEST = re.compile("[0-9a-f]{64}").fullmatch
_PATH = re.compile(r"/([a-z_]+)/(?:(token)|v1/(lists|jobs)(?:/([a-z0-9-]+)(?:/(members|use|sweep))?)?)")


@dataclass(frozen=True)
class Shape:
    """What one variant of the platform does differently.

    dedup      set: repeating a batch does no harm; id: only with the header Dedup-Id; none: it is applied twice
    composite  phone and external_id are one match key, `pair`; a row with one of them alone is malformed
    """

    row: Literal["keyed", "positional", "single"] = "keyed"
    ops: tuple[str, ...] = ("add", "remove")
    asynchronous: bool = False
    dedup: Literal["set", "id", "none"] = "set"
    oauth: bool = False
    born: bool = False
    sweeps: bool = False
    composite: bool = False
    retention_days: int | None = None
    forgets: Mapping[str, int] = field(default_factory=dict)


SHAPES: dict[str, Shape] = {
    "scripted": Shape(),
    "scripted_async": Shape(asynchronous=True),
    "scripted_single": Shape(row="single"),
    "scripted_positional": Shape(row="positional"),
    "scripted_replace": Shape(ops=("replace",)),
    "scripted_dedup": Shape(dedup="id"),
    "scripted_blind": Shape(dedup="none"),
    "scripted_oauth": Shape(oauth=True),
    "scripted_born": Shape(born=True),
    "scripted_sweep": Shape(asynchronous=True, sweeps=True),
    "scripted_piecewise": Shape(asynchronous=True, row="single"),
    "scripted_composite": Shape(composite=True),
    "scripted_retention": Shape(retention_days=30, forgets={"external_id": 10}),
}


@dataclass
class Job:
    """A batch, or a sweep, that waits for its polls. Who is in it counts as put in when it was `made`."""

    id: str
    audience: Audience
    body: dict[str, Any] = field(repr=False)
    made: float
    extra: int
    state: str = "running"
    polls: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)


class ScriptedPlatform(Platform):
    """All shapes in one server; an audience belongs to the shape under which it was made."""

    name = "scripted-platform"
    codec = Codec({"email": True, "phone": True, "maid": False, "external_id": False, "pair": False})
    defaults: ClassVar[Mapping[str, Any]] = {
        "finish_after_polls": 1,
        "stagger": 1,
        "fail_after_polls": None,
        "lose_after_polls": None,
        "lost_applied": False,
        "refuse": {},
        "expires_in_s": 3600,
        "rotate": True,
        "refresh_ok": True,
        "use_from": 0,
        "match_rate": None,
    }

    def reset(self) -> None:
        super().reset()
        self.policy["refuse"] = {}
        self.jobs: dict[str, Job] = {}
        self.tokens: dict[str, float] = {}
        self.refresh_tokens = {REFRESH_TOKEN}
        self.staged: dict[tuple[str, int], tuple[Members, set[int]]] = {}
        self.answers: dict[str, tuple[bytes, Answer]] = {}
        self.applied: dict[tuple[str, str], int] = {}
        self.replayed = 0
        self.used: list[str] = []
        self.put_in: dict[tuple[str, Key], float] = {}

    def report(self) -> dict[str, Any]:
        return {
            "jobs": [{"id": job.id, "state": job.state, "op": job.body["op"]} for job in self.jobs.values()],
            "repeated": sum(count - 1 for count in self.applied.values()),
            "replayed": self.replayed,
            "used": self.used,
        }

    def classify(self, request: Request) -> str:
        place = _PATH.fullmatch(request.path)
        if place is None or place[1] not in SHAPES:
            return ""
        if place[2] or place[3] == "jobs":
            return "token" if place[2] else "poll"
        if place[5] in ("use", "sweep"):
            return place[5]
        if place[5]:
            return _op_of(request)
        one = {"GET": "get", "PATCH": "update", "DELETE": "delete"} if place[4] else {"GET": "find", "POST": "create"}
        return one.get(request.method, "")

    def answer(self, request: Request) -> Answer:
        handlers: dict[str, Callable[[Request, str, str], Answer]] = {
            "token": self._token,
            "create": self._create,
            "find": self._find,
            "get": self._get,
            "update": self._update,
            "delete": self._delete,
            "poll": self._poll,
            "use": self._use,
            "sweep": self._sweep,
            "add": self._members,
            "remove": self._members,
            "replace": self._members,
        }
        place = _PATH.fullmatch(request.path)
        if place is None or request.op not in handlers:
            return _error(404, "no_such_call")
        try:
            self._admit(request, place[1])
            return handlers[request.op](request, place[1], place[4] or "")
        except Refusal as refusal:
            return refusal.answer

    def fail(self, fault: Fault, request: Request) -> Answer:
        known = {
            "throttle": (429, "throttled"),
            "expired_token": (401, "token_expired"),
            "too_small": (400, "too_small"),
            "gone": (404, "list_not_found"),
        }
        status, code = known.get(fault.kind, (int(fault.get("status", 500)), str(fault.get("code", "injected"))))
        answer = _error(status, code)
        wait_s = fault.get("retry_after", 60 * int(fault.get("minutes", 1)) if fault.kind == "throttle" else None)
        if wait_s is not None:
            answer.headers["Retry-After"] = str(wait_s)
        return answer

    def usage(self, percent: int, request: Request) -> dict[str, str]:
        return {"X-Used-Percent": str(percent)}

    # -- who may call -----------------------------------------------------------------------------------------

    def _admit(self, request: Request, shape: str) -> None:
        allowed = {"mark", "name"} if request.op == "find" else set()
        if request.query.keys() - allowed:
            self.violation(f"{request.op}: query string with {', '.join(sorted(request.query))}")
            raise Refusal(_error(400, "query"))
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        good = self.tokens.get(token, 0.0) > self.clock.now() if SHAPES[shape].oauth else token == TOKEN
        if request.op != "token" and not good:
            raise Refusal(_error(401, "token_expired" if token in self.tokens else "token_unknown"))

    def _token(self, request: Request, shape: str, _: str) -> Answer:
        """Renew; errors as RFC 6749 words them."""
        form = request.fields()
        given = form.get("refresh_token")
        if (form.get("client_id"), form.get("client_secret")) != ("client", "client-secret"):
            return Answer(401, {"error": "invalid_client"})
        if given not in self.refresh_tokens or not self.policy["refresh_ok"]:
            return Answer(400, {"error": "invalid_grant"})
        number = len(self.tokens) + 1
        self.tokens[f"access-{number}"] = self.clock.now() + self.policy["expires_in_s"]
        body = {"access_token": f"access-{number}", "expires_in": self.policy["expires_in_s"]}
        if self.policy["rotate"]:
            self.refresh_tokens = {f"refresh-{number}"}
            body["refresh_token"] = f"refresh-{number}"
        return Answer(200, body)

    # -- lists ------------------------------------------------------------------------------------------------

    def _create(self, request: Request, shape: str, _: str) -> Answer:
        traits = SHAPES[shape]
        fields = _only(request, {"name", "mark", *(("members",) if traits.born else ())})
        members = fields.get("members")
        if members is not None and (members["op"] != "add" or not self._rows(members, traits)):
            raise Refusal(_error(400, "members"))
        self.made += 1
        forgets = {self.codec.codes[name]: days for name, days in traits.forgets.items()}
        audience = Audience(
            id=f"list-{self.made}",
            account=shape,
            name=fields["name"],
            description=fields["mark"],
            members=Members(self.people, forgets),
            created=self.clock.now(),
            retention_days=traits.retention_days,
        )
        self.audiences[audience.id] = audience
        if members is not None:
            self._apply(audience, members, traits)
        return Answer(201, _facts(audience), note={"audience": audience.id})

    def _use(self, request: Request, shape: str, list_id: str) -> Answer:
        _only(request, set())
        audience = self._audience(shape, list_id)
        if audience.members.count < self.policy["use_from"]:
            raise Refusal(_error(400, "too_few"))
        self.used.append(audience.id)
        return Answer(200, {}, note={"audience": audience.id})

    def _sweep(self, request: Request, shape: str, list_id: str) -> Answer:
        audience = self._audience(shape, list_id)
        body = _only(request, {"before"})
        before = datetime.fromisoformat(body["before"]).timestamp()
        if not SHAPES[shape].sweeps or before > self.clock.now():
            raise Refusal(_error(400, "no_such_operation"))
        job = self._job(audience, {"op": "sweep", "before": before})
        return Answer(202, {"job": job.id}, note={"audience": audience.id})

    def _job(self, audience: Audience, body: dict[str, Any]) -> Job:
        # The last of them first: what was sent later is applied earlier.
        extra = -len(self.jobs) % self.policy["stagger"]
        job = Job(f"job-{len(self.jobs) + 1}", audience, body, self.clock.now(), extra)
        self.jobs[job.id] = job
        return job

    def _find(self, request: Request, shape: str, _: str) -> Answer:
        mark, name = request.query.get("mark"), request.query.get("name")
        found = [
            _facts(one)
            for one in self.audiences.values()
            if one.account == shape and not one.deleted and (one.name == name or _carries(one.description, mark))
        ]
        return Answer(200, {"lists": found})

    def _get(self, request: Request, shape: str, list_id: str) -> Answer:
        audience = self._audience(shape, list_id)
        self.expire()
        facts = {
            "size": audience.members.count,
            "match_rate": self.policy["match_rate"],
            "used": audience.id in self.used,
        }
        return Answer(200, {**_facts(audience), **facts})

    def _update(self, request: Request, shape: str, list_id: str) -> Answer:
        audience = self._audience(shape, list_id)
        audience.description = _only(request, {"mark"})["mark"]
        return Answer(200, _facts(audience), note={"audience": audience.id})

    def _delete(self, request: Request, shape: str, list_id: str) -> Answer:
        audience = self._audience(shape, list_id)
        audience.deleted = True
        return Answer(200, {}, note={"audience": audience.id})

    def _audience(self, shape: str, list_id: str) -> Audience:
        audience = self.audiences.get(list_id)
        if audience is None or audience.deleted or audience.account != shape:
            raise Refusal(_error(404, "list_not_found"))
        return audience

    # -- members ----------------------------------------------------------------------------------------------

    def _members(self, request: Request, shape: str, list_id: str) -> Answer:
        audience = self._audience(shape, list_id)
        self.expire()
        body = _only(request, {"op", "batch", "fields", "rows"})
        traits = SHAPES[shape]
        rows = self._rows(body, traits)
        if body["op"] not in traits.ops:
            raise Refusal(_error(400, "no_such_operation"))
        dedup_id = request.headers.get("dedup-id")
        if traits.dedup == "id" and dedup_id is None:
            raise Refusal(_error(400, "dedup_id_required"))
        if traits.dedup == "id" and dedup_id in self.answers:
            known, answer = self.answers[dedup_id]
            self.replayed += 1
            return answer if known == request.body else _error(409, "dedup_id_reused")
        note = {"rows": len(rows), "audience": audience.id, "batch": body["batch"]["number"]}
        if traits.asynchronous:
            answer = Answer(202, {"job": self._job(audience, body).id}, note=note)
        else:
            self._check_size(audience, body, rows)
            refused = self._apply(audience, body, traits, request.skip)
            answer = Answer(200, {"received": len(rows), "refused": refused}, note={**note, "refused": len(refused)})
        if dedup_id is not None:
            self.answers[dedup_id] = (request.body, answer)
        return answer

    def _rows(self, body: Mapping[str, Any], shape: Shape) -> list[list[tuple[str, str]]]:
        """Each row as (field, value) pairs; one malformed row refuses the whole request."""
        rows = body["rows"]
        if not (0 if body["op"] == "replace" else 1) <= len(rows) <= MAX_ROWS:
            raise Refusal(_error(400, "row_count"))
        if not set(body["fields"]) <= self.codec.codes.keys() - {"pair"}:
            raise Refusal(_error(400, "fields"))
        read = [_pairs(row, shape.row, body["fields"]) for row in rows]
        if shape.row == "single" and len({row[0][0] for row in read if row}) > 1:
            raise Refusal(_error(400, "mixed_types"))
        for pairs in read:
            halved = shape.composite and len({"phone", "external_id"} & {name for name, _ in pairs}) == 1
            if not pairs or halved or not all(self._is_valid(*pair) for pair in pairs):
                self.violation(f"{body['op']}: a malformed row")
                raise Refusal(_error(400, "bad_row"))
        return read

    def _is_valid(self, name: str, value: Any) -> bool:
        if name not in self.codec.codes or name == "pair" or not isinstance(value, str):
            return False
        hashed = name in ("email", "phone")
        return bool(_DIGEST(value)) if hashed else value == value.strip() != ""

    def _check_size(self, audience: Audience, body: Mapping[str, Any], rows: list[list[tuple[str, str]]]) -> None:
        minimum = self.policy["minimum_members"] if body["op"] == "remove" else 0
        shape = SHAPES[audience.account]
        leaving = audience.members.leaving([self._keys(row, shape) for row in rows]) if minimum else 0
        if leaving and audience.members.count - leaving < minimum:
            raise Refusal(_error(400, "too_small"))

    def _apply(self, audience: Audience, body: dict[str, Any], shape: Shape, skip: int = 0) -> list[dict[str, Any]]:
        """Apply a batch and name the rows that were refused."""
        batch = body["batch"]
        self.applied[audience.id, batch["id"]] = self.applied.get((audience.id, batch["id"]), 0) + 1
        target, change = self._target(audience, body)
        refused = []
        for index, row in enumerate(self._rows(body, shape)):
            code = "injected" if index < skip else self._refusal(row, shape)
            if code is not None:
                refused.append({"index": index, "code": code})
            else:
                change(self._keys(row, shape), self.clock.today())
        if body["op"] == "replace":
            self._finish_replace(audience, target, batch)
        return refused

    def _end(self, job: Job, shape: Shape) -> None:
        """Apply a job."""
        members = job.audience.members
        if job.body["op"] == "sweep":
            for _, keys in list(members.records()):
                if max(self.put_in.get((job.audience.id, key), 0.0) for key in keys) < job.body["before"]:
                    members.remove(keys, self.clock.today())
            return
        job.refused = self._apply(job.audience, job.body, shape)
        if job.body["op"] == "add":
            keys = [key for row in self._rows(job.body, shape) for key in self._keys(row, shape)]
            self.put_in |= {(job.audience.id, key): job.made for key in keys}

    def _refusal(self, row: list[tuple[str, str]], shape: Shape) -> str | None:
        refused = self.policy["refuse"]
        return next((refused[value] for _, value in _match_keys(row, shape) if value in refused), None)

    def _keys(self, row: list[tuple[str, str]], shape: Shape) -> list[Key]:
        return [self.codec.encode(*pair) for pair in _match_keys(row, shape)]

    def _target(self, audience: Audience, body: Mapping[str, Any]) -> tuple[Members, Callable[[list[Key], int], Any]]:
        if body["op"] != "replace":
            members = audience.members
            return members, members.add if body["op"] == "add" else members.remove
        place = (audience.id, body["batch"]["session"])
        if body["batch"]["number"] == 1:
            self.staged[place] = (self.new_members(), set())
        if place not in self.staged:
            raise Refusal(_error(409, "first_batch_missing"))
        return self.staged[place][0], self.staged[place][0].add

    def _finish_replace(self, audience: Audience, target: Members, batch: Mapping[str, Any]) -> None:
        place = (audience.id, batch["session"])
        seen = self.staged[place][1]
        seen.update([batch["number"]] + ([-batch["number"]] if batch["last"] else []))
        last = -min(seen)
        if last > 0 and seen >= set(range(1, last + 1)):
            audience.members = target
            del self.staged[place]

    # -- jobs -------------------------------------------------------------------------------------------------

    def _poll(self, request: Request, shape: str, job_id: str) -> Answer:
        job = self.jobs.get(job_id)
        if job is None or job.audience.account != shape or job.state == "lost":
            raise Refusal(_error(404, "job_not_found"))
        if job.state == "running":
            job.polls += 1
            self._advance(job, SHAPES[shape])
        if job.state == "lost":
            raise Refusal(_error(404, "job_not_found"))
        return Answer(200, {"state": job.state, **({"refused": job.refused} if job.state == "done" else {})})

    def _advance(self, job: Job, shape: Shape) -> None:
        """What becomes of a job at this poll."""
        lose, fail = self.policy["lose_after_polls"], self.policy["fail_after_polls"]
        if lose is not None and job.polls >= lose:
            job.state = "lost"
            if self.policy["lost_applied"]:
                self._end(job, shape)
        elif fail is not None and job.polls >= fail:
            job.state = "failed"
        elif job.polls >= self.policy["finish_after_polls"] + job.extra:
            self._end(job, shape)
            job.state = "done"


def serve_scripted() -> Any:
    """A context manager like `serve`, for this platform; `Serving.url` is the connection's base_url."""
    clock = Clock()
    return serve(sandbox=Sandbox([ScriptedPlatform(clock)], clock))


def reports(serving: Serving) -> dict[str, Any]:
    """What the platform says of jobs and repeats."""
    found: dict[str, Any] = serving.state()["reports"][ScriptedPlatform.name]
    return found


def _op_of(request: Request) -> str:
    try:
        return str(request.fields().get("op", ""))
    except ValueError:
        return ""


def _only(request: Request, names: set[str]) -> dict[str, Any]:
    """The body's fields, which are exactly these."""
    try:
        fields = request.fields()
    except ValueError:
        raise Refusal(_error(400, "body")) from None
    if fields.keys() != names:
        raise Refusal(_error(400, "body_fields"))
    return fields


def _pairs(row: Any, form: str, fields: list[str]) -> list[tuple[str, str]]:
    """(field, value) of every filled cell; empty where the row has another form."""
    if form == "positional" and isinstance(row, list) and len(row) == len(fields):
        return [(name, value) for name, value in zip(fields, row, strict=True) if value != ""]
    if form == "single" and isinstance(row, dict) and row.keys() == {"type", "value"}:
        return [(row["type"], row["value"])]
    if form == "keyed" and isinstance(row, dict):
        return list(row.items())
    return []


def _match_keys(row: list[tuple[str, str]], shape: Shape) -> list[tuple[str, str]]:
    """What of a row the platform finds a person by."""
    found = dict(row)
    if not shape.composite or "phone" not in found:
        return row
    pair = f"{found.pop('phone')}+{found.pop('external_id')}"
    return [*found.items(), ("pair", pair)]


def _carries(own: str, mark: str | None) -> bool:
    return mark is not None and bool(mark) and (own == mark or own.startswith(mark.rstrip(":") + ":"))


def _facts(audience: Audience) -> dict[str, Any]:
    return {"id": audience.id, "name": audience.name, "mark": audience.description, "account": audience.account}


def _error(status: int, code: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": code.replace("_", " ")}})
