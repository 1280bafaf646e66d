"""Parsers: whatever comes in, the answer is right or a refusal, never a crash."""

from __future__ import annotations

import contextlib
import copy
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.secagg import messages
from fedrec.secagg.graph import marked
from fedrec.secagg.local import answer
from fedrec.secagg.messages import Attempt, Phase, ProtocolError, Reader
from fedrec.secagg.server import Server
from fedrec.secagg.session import Variant
from tests.secagg.world import RUN, VARIANTS, World, refused

N = 5


@cache
def world_at(variant: Variant, phase: Phase) -> tuple[World, bytes]:
    """A world before a phase, and the message that participant 0 is to answer."""
    world = World(N, t=3, variant=variant, size=8)
    return world, world.until(phase).routes[0]


@cache
def server_at(variant: Variant, phase: Phase) -> tuple[Server, bytes]:
    """A server in a phase, and a valid reply of participant 0."""
    world = World(N, t=3, variant=variant, size=8)
    server = world.until(phase)
    return server, world.answer(phase, 0, server.routes[0])


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes changed, cut out or put in, at the header or anywhere."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(found), draw(st.sampled_from([60, len(found)])))))
        kind = draw(st.sampled_from(["set", "cut", "insert", "end"]))
        if kind == "set" and at < len(found):
            found[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del found[at : at + draw(st.integers(1, 40))]
        elif kind == "insert":
            found[at:at] = draw(st.binary(min_size=1, max_size=40))
        else:
            del found[at:]
    return bytes(found)


cases = st.tuples(st.sampled_from(VARIANTS), st.sampled_from(Phase))


@settings(max_examples=300, deadline=None)
@given(cases, st.data())
def test_a_client_answers_or_refuses_any_change_of_a_request(case: tuple[Variant, Phase], data: st.DataObject) -> None:
    world, request = world_at(*case)
    message = data.draw(mutated(request))
    with contextlib.suppress(ProtocolError):
        reply = answer(world.snapshot(0), case[1], message, world.vectors[0])
        assert reply[:5] == b"FSA\x01" + bytes([case[1]])


@settings(max_examples=200, deadline=None)
@given(cases, st.data())
def test_a_server_takes_or_refuses_any_change_of_a_reply(case: tuple[Variant, Phase], data: st.DataObject) -> None:
    original, reply = server_at(*case)
    server = copy.deepcopy(original, {id(original._probe): original._probe})
    before = server._total.copy()
    try:
        server.receive(0, data.draw(mutated(reply)))
    except ProtocolError:
        assert not server.answered
        assert np.array_equal(server._total, before)


@settings(max_examples=300)
@given(cases, st.binary(max_size=200), st.booleans())
def test_any_bytes_at_all_are_refused(case: tuple[Variant, Phase], body: bytes, framed: bool) -> None:
    world, request = world_at(*case)
    message = messages.frame(RUN, Attempt(1, 0), case[1], False, body) if framed else body
    if message != request and not (case[1] is Phase.ADVERT and not body) and case[1] is not Phase.AGREE:
        with pytest.raises(ProtocolError):
            answer(world.snapshot(0), case[1], message, world.vectors[0])


@given(st.integers(0, 70), st.data())
def test_a_bitmap_has_one_encoding(size: int, data: st.DataObject) -> None:
    bits = marked(size, data.draw(st.sets(st.integers(0, size - 1))) if size else ())
    packed = messages.bitmap(bits)
    reader = Reader(memoryview(packed), "a bitmap")
    assert np.array_equal(reader.bitmap(size), bits)
    reader.end()
    if size % 8:
        with refused("more than"):
            Reader(memoryview(packed[:-1] + bytes([packed[-1] | 1])), "a bitmap").bitmap(size)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_numbers_ascend_or_are_refused(values: list[int]) -> None:
    reader = Reader(memoryview(messages.numbers(values)), "a list")
    if values == sorted(set(values)):
        assert reader.numbers(len(values)) == tuple(values)
    else:
        with refused("twice or out of order"):
            reader.numbers(len(values))


@given(st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from(Phase), st.booleans(), st.binary())
def test_what_is_framed_comes_out_again(round_: int, attempt: int, phase: Phase, reply: bool, body: bytes) -> None:
    data = messages.frame(RUN, Attempt(round_, attempt), phase, reply, body)
    found, reader = messages.unframe(data, RUN, phase, reply)
    assert (found, reader.take(len(body))) == (Attempt(round_, attempt), body)
    reader.end()
    with pytest.raises(ProtocolError):
        messages.unframe(data, RUN, phase, not reply)
