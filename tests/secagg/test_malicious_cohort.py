"""A server that lies about who takes part: swapped keys, invented participants, another roster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrec.secagg import crypto, messages, pairs
from fedrec.secagg.enrolment import Identity
from fedrec.secagg.graph import marked
from fedrec.secagg.messages import Attempt, Phase
from fedrec.secagg.session import Terms, Variant
from tests.secagg.world import RUN, World, both_variants, refused, replaced, request, sized

N = 8


@both_variants
def test_swapped_keys_are_refused_before_a_vector_is_sent(variant: Variant) -> None:
    """The server puts its own mask key (or nonce) in the place of participant 1's, in what it shows to 0 alone."""
    world = World(N, variant=variant)
    server = world.until(Phase.SHARES)
    advert = server._adverts[1]
    theirs = crypto.new_pair()[1]

    def swap(who: int, message: bytes) -> bytes:
        return replaced(message, advert[:32], theirs) if who == 0 else message

    if world.terms.signed:
        with refused("participant 1 is not signed"):
            world.answer(Phase.SHARES, 0, swap(0, server.routes[0]))
        return
    world.step(server, tamper=swap)
    server.advance()
    with refused("sealed shares can be opened"):  # nobody shares its view of the attempt
        world.answer(Phase.MASKED, 0, server.routes[0])


def test_swapped_channel_keys_and_foreign_signatures_are_refused() -> None:
    world = World(N)
    server = world.until(Phase.SHARES)
    message, advert = server.routes[0], server._adverts[1]
    stranger = Identity.generate()
    keys = crypto.new_pair()[1] + crypto.new_pair()[1]
    forged = keys + crypto.sign(stranger.signing, world.terms.advert_text(1, Attempt(1, 0), keys))
    for swapped in (
        replaced(message, advert[32:64], crypto.new_pair()[1]),
        replaced(message, advert, forged),
        replaced(message, advert[64:], bytes(64)),
    ):
        with refused("participant 1 is not signed by its enrolled key"):
            world.answer(Phase.SHARES, 0, swapped)


@both_variants
def test_a_cohort_of_one_real_client_gets_no_vector(variant: Variant) -> None:
    """All other participants are the server's inventions, under numbers that the device's roster has."""
    world = World(N, variant=variant, n_min=N)
    world.reborn(0).advert(request(Phase.ADVERT))
    mine = world.reborn(0).advert(request(Phase.ADVERT))[46:]
    fake = [crypto.new_pair()[1] for _ in range(N)]
    size = world.terms.advert_bytes
    adverts = [mine, *((fake[i] + fake[i][::-1] + bytes(64))[:size] for i in range(1, N))]
    invitation = request(Phase.SHARES, N.to_bytes(4), messages.numbers(range(N)), *adverts)
    if world.terms.signed:
        with refused("is not signed"):
            world.reborn(0).shares(invitation)
        return
    world.reborn(0).shares(invitation)
    boxes = bytes(pairs.SEALED_BYTES * (N - 1))
    with refused("Only 0 neighbours' sealed shares can be opened"):
        world.answer(Phase.MASKED, 0, request(Phase.MASKED, messages.bitmap(marked(N, range(N))), boxes))


@both_variants
def test_a_cohort_that_is_too_small_or_of_strangers_is_refused(variant: Variant) -> None:
    world = World(N, variant=variant, n_min=4)
    server = world.until(Phase.SHARES)
    adverts = server._adverts

    def invitation(*cohort: int, shown: dict[int, bytes] | None = None) -> bytes:
        texts = [(shown or adverts)[i] for i in cohort]
        return request(Phase.SHARES, len(cohort).to_bytes(4), messages.numbers(cohort), *texts)

    stranger = {**adverts, 99: adverts[1]}
    twin = {**adverts, 2: adverts[1]}
    for message, why in (
        (invitation(0, 1, 2), "below the minimum of 4 users"),
        (invitation(1, 2, 3, 4), "another advert for this device"),
        (invitation(0, 1, 2, 3, 99, shown=stranger), "Participant 99 is not enrolled"),
        (invitation(0, 1, 2, 3, shown=twin), "the same key"),
        (invitation(0, 2, 1, 3), "twice or out of order"),
        (invitation(0, 1, 1, 3), "twice or out of order"),
        (invitation(0, 1, 2, 3, shown={**adverts, 0: adverts[4]}), "another advert for this device"),
        (invitation(0, 1, 2, 3) + b"\0", "too long"),
        (invitation(0, 1, 2, 3)[:-1], "too early"),
    ):
        with refused(why):
            world.answer(Phase.SHARES, 0, message)


def test_a_neighbour_s_key_of_an_earlier_attempt_is_refused() -> None:
    """Participant 1 and the server collude: it signs the same mask key again."""
    world = World(4)
    first = world.until(Phase.SHARES)
    old = first._adverts[1][:64]
    world.until(Phase.MASKED, first)
    later = world.until(Phase.SHARES, world.server(Attempt(2, 0)))
    again = old + crypto.sign(world.identities[1].signing, world.terms.advert_text(1, Attempt(2, 0), old))
    with refused("a key that it used in an earlier attempt"):
        world.answer(Phase.SHARES, 0, replaced(later.routes[0], later._adverts[1], again))
    world.answer(Phase.SHARES, 0, later.routes[0])  # the attempt itself is not used up by the refusal


@both_variants
def test_a_roster_or_terms_that_disagree_end_the_attempt(variant: Variant) -> None:
    """Participant 0 believes that 1 stands for two users, or wants a larger minimum: nobody shares its context."""
    for change in ("roster", "terms"):
        world = World(N, variant=variant)
        server = world.until(Phase.SHARES)
        honest, roster = world.terms, world.roster
        if change == "roster":
            world.roster = {**roster, 1: replace(roster[1], users=2)}
        else:
            world.terms = replace(honest, n_min=2)
        reply = world.answer(Phase.SHARES, 0, server.routes[0])
        world.terms, world.roster = honest, roster
        server.receive(0, reply)
        world.step(server, without=(0,))
        server.advance()
        with refused("sealed shares can be opened"):
            world.answer(Phase.MASKED, 0, server.routes[0])


@both_variants
def test_shares_of_the_wrong_size_or_number_are_refused(variant: Variant) -> None:
    world = World(N, variant=variant)
    server = world.until(Phase.MASKED)
    message = server.routes[0]
    for wrong in (message[:-1], message + b"\0", message[: -pairs.SEALED_BYTES], message + bytes(pairs.SEALED_BYTES)):
        with refused("too early|too long"):
            world.answer(Phase.MASKED, 0, wrong)
    with refused("do not include this device"):
        world.answer(Phase.MASKED, 0, request(Phase.MASKED, messages.bitmap(marked(N, range(1, N))), message[47:]))


def test_terms_without_parameters_for_a_cohort_say_so() -> None:
    with pytest.raises(ValueError, match="parameters are for 4"):
        Terms(RUN, 1, "signed", lambda _: sized(4)).parameters(5)
