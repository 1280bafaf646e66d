"""Clients that break the protocol: they drop out or fail an attempt, by name; they never change a sum unseen.

What a client may do unseen is to send another vector than it should: that is not for secure aggregation to prevent.
"""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.errors import RoundFailedError
from fedrec.secagg import crypto, messages, pairs, shamir
from fedrec.secagg.local import answer
from fedrec.secagg.messages import Attempt, Phase, ProtocolError
from fedrec.secagg.server import Server
from fedrec.secagg.session import Variant
from tests.secagg.world import FIRST, World, both_variants, refused

N = 8


def reply(phase: Phase, *body: bytes, attempt: Attempt = FIRST) -> bytes:
    """A reply as a malicious client would make it."""
    return messages.frame(bytes(range(32)), attempt, phase, True, *body)


def finished(world: World, server: Server) -> None:
    """The rest of an attempt in which participant 0 has not answered: the sum is that of the others."""
    world.step(server, without=(0,))
    while server.phase < Phase.UNMASK:
        server.advance()
        world.step(server)
    result = server.finish()
    assert np.array_equal(result.total, world.ring_sum(result.survivors))


def ahead(world: World, phase: Phase, server: Server) -> bytes:
    """Participant 0's valid reply, which leaves participant 0 as it was."""
    return answer(world.snapshot(0), phase, server.routes[0], world.vectors[0])


@both_variants
@pytest.mark.parametrize("phase", Phase)
def test_garbage_is_a_dropout(phase: Phase, variant: Variant) -> None:
    world = World(N, t=4, variant=variant)
    server = world.until(phase)
    valid = ahead(world, phase, server)
    for garbage in (b"", b"\0" * 46, valid[:-1], valid + b"\0", valid[:46], bytes([1]) + valid[1:], valid[::-1]):
        with pytest.raises(ProtocolError):
            server.receive(0, garbage)
    assert server.waiting == set(range(N))
    finished(world, server)


@both_variants
@pytest.mark.parametrize("phase", Phase)
def test_a_second_a_late_and_a_stranger_s_reply_are_refused(phase: Phase, variant: Variant) -> None:
    world = World(N, t=4, variant=variant)
    server = world.until(phase)
    valid = ahead(world, phase, server)
    server.receive(0, valid)
    with refused("has answered phase"):
        server.receive(0, valid)
    with refused("was not asked"):
        server.receive(99, valid)
    with refused("out of order"):
        server.receive(1, reply(Phase((phase + 1) % 5), valid[46:]))
    with refused("came in round 1, attempt 0"):
        server.receive(1, reply(phase, valid[46:], attempt=Attempt(2, 0)))
    world.step(server, without=(0, 1))
    if phase is Phase.UNMASK:
        assert np.array_equal(server.finish().total, world.ring_sum(range(N)))
        return
    server.advance()
    with refused("was not asked" if phase else "was not asked|out of order"):
        server.receive(1, valid)  # its time is over
    world.until(Phase.UNMASK, server)
    world.step(server)
    result = server.finish()
    assert np.array_equal(result.total, world.ring_sum(result.survivors))
    assert (1 in result.survivors) == (phase is Phase.AGREE)


def test_an_advert_with_a_stolen_used_or_weak_key_is_a_dropout() -> None:
    world = World(N)
    used = crypto.new_pair()[1]
    server = world.server(seen={used})
    mine = world.answer(Phase.ADVERT, 1, server.routes[1])[46:]
    server.receive(1, reply(Phase.ADVERT, mine))

    def signed(keys: bytes) -> bytes:
        text = world.terms.advert_text(0, Attempt(1, 0), keys)
        return reply(Phase.ADVERT, keys, crypto.sign(world.identities[0].signing, text))

    fresh = crypto.new_pair()[1]
    for keys, why in (
        (mine[:64], "used before"),
        (used + fresh, "used before"),
        (fresh + mine[:32], "used before"),
        (bytes(32) + fresh, "low order"),
    ):
        with refused(why):
            server.receive(0, signed(keys))
    with refused("not signed"):
        server.receive(0, reply(Phase.ADVERT, mine))
    server.receive(0, signed(fresh + crypto.new_pair()[1]))


@both_variants
def test_a_wrong_share_is_seen_named_and_done_without(variant: Variant) -> None:
    """Participant 0 changes every share that it returns; seven right ones are left, and four are needed."""
    world = World(N, t=4, variant=variant)
    server = world.until(Phase.UNMASK)
    valid = world.answer(Phase.UNMASK, 0, server.routes[0])
    body = bytearray(valid)
    for i in range(47, len(body), shamir.SHARE_BYTES):
        body[i + 5] ^= 1
    server.receive(0, bytes(body))
    world.step(server, without=(0,))
    result = server.finish()
    assert np.array_equal(result.total, world.ring_sum(range(N)))
    assert result.wrong == tuple((0, owner) for owner in range(1, N))


@both_variants
def test_wrong_shares_of_too_many_fail_the_attempt(variant: Variant) -> None:
    world = World(4, t=3, variant=variant)
    server = world.until(Phase.UNMASK)
    for who in range(4):
        body = bytearray(world.answer(Phase.UNMASK, who, server.routes[who]))
        if who == 0:
            body[60] ^= 1
        server.receive(who, bytes(body))
    with pytest.raises(RoundFailedError, match="2 valid shares of participant 1 came back, and 3 are needed"):
        server.finish()


def dealt(world: World, server: Server, secret: int) -> bytes:
    """Participant 0's deal, of another secret than the one that it commits to."""
    body = messages.Reader(memoryview(world.answer(Phase.SHARES, 0, server.routes[0]))[46:], "a deal")
    deal = pairs.Deal.decode(server._session, body)
    commitments = list(deal.commitments)
    commitments[secret] = bytes(32)
    return pairs.Deal(commitments, deal.sealed, deal.tags, deal.escrow).encode()


@both_variants
@pytest.mark.parametrize("secret", [pairs.SELF, pairs.PAIR])
def test_shares_of_another_secret_than_committed_to_fail_the_attempt(secret: int, variant: Variant) -> None:
    world = World(N, t=4, variant=variant)
    server = world.until(Phase.SHARES)
    server.receive(0, reply(Phase.SHARES, dealt(world, server, secret)))
    world.step(server, without=(0,))
    server.advance()
    world.step(server, without=() if secret == pairs.SELF else (0,))
    server.advance()
    world.until(Phase.UNMASK, server)
    world.step(server)
    with pytest.raises(RoundFailedError, match="participant 0 has shared another secret"):
        server.finish()


@both_variants
def test_shares_that_do_not_open_cost_their_dealer_alone(variant: Variant) -> None:
    """Participant 0 seals nonsense to three of seven: they do without, and four shares open its secret."""
    world = World(N, t=4, variant=variant)
    server = world.until(Phase.SHARES)
    body = bytearray(world.answer(Phase.SHARES, 0, server.routes[0]))
    for i in range(3):
        body[46 + 64 + i * pairs.SEALED_BYTES] ^= 1
    server.receive(0, bytes(body))
    world.step(server, without=(0,))
    while server.phase < Phase.UNMASK:
        server.advance()
        world.step(server)
    assert np.array_equal(server.finish().total, world.ring_sum(range(N)))


def test_a_signature_over_anything_else_is_a_dropout() -> None:
    world = World(N, t=4)
    server = world.until(Phase.AGREE)
    with refused("has not signed the statement"):
        server.receive(0, reply(Phase.AGREE, crypto.sign(world.identities[0].signing, b"other")))
    with refused("has not signed the statement"):
        server.receive(0, reply(Phase.AGREE, crypto.sign(world.identities[1].signing, server._statement)))
    finished(world, server)


def test_wrong_tags_do_not_keep_the_others_from_opening_the_sum() -> None:
    world = World(N, t=4, variant="cached")
    server = world.until(Phase.AGREE)
    server.receive(0, reply(Phase.AGREE, bytes(16 * (N - 1))))
    world.step(server, without=(0,))
    server.advance()
    assert len(world.step(server, without=(0,))) == N - 1
    assert np.array_equal(server.finish().total, world.ring_sum(range(N)))


def test_a_share_of_one_who_shared_nothing_is_refused() -> None:
    world = World(N, t=4)
    server = world.until(Phase.SHARES)
    world.step(server, without=(7,))
    server.advance()
    world.step(server)
    server.advance()
    world.until(Phase.UNMASK, server)
    everything = reply(Phase.UNMASK, b"\xfe", bytes(7 * shamir.SHARE_BYTES))
    with refused("who shared nothing"):
        server.receive(0, everything)


def test_phases_are_taken_in_order() -> None:
    world = World(N)
    server = world.server()
    with refused("finished after UNMASK"):
        server.finish()
    world.until(Phase.UNMASK, server)
    with refused("last phase"):
        server.advance()
