"""Plays a destination's flow with answers typed by hand, as `send.Sender` does over HTTP, but without repeats."""

from __future__ import annotations

from typing import Any, TypeVar

from dbt_segments.destinations.base import Call, Destination, Flow, Reply

T = TypeVar("T")


def ok(body: Any, status: int = 200, **headers: str) -> Reply:
    """A success with JSON; None is an empty body."""
    return Reply(status, headers, body, empty=body is None)


def play(destination: Destination, flow: Flow[T], *answers: Reply) -> tuple[T, list[Call]]:
    """The flow's result and the calls that it made. What the destination calls a fault is thrown into the flow."""
    calls: list[Call] = []
    left = iter(answers)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            reply = next(left)
            fault = destination.fault(call, reply)
            call = flow.throw(fault.error) if fault else flow.send(reply)
    except StopIteration as end:
        assert next(left, None) is None, "more answers than calls"
        return end.value, calls
