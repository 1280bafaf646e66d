"""A server that breaks the protocol gets refusals: from every device that it lies to, before any share is out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedrec.secagg import crypto, messages, pairs, shamir
from fedrec.secagg.enrolment import read_channels
from fedrec.secagg.graph import marked
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.records import Records
from fedrec.secagg.server import Server
from fedrec.secagg.session import Variant
from fedrec.secagg.store import FolderStore
from tests.secagg.world import RUN, World, both_variants, refused, request

N = 8


def survivors(*who: int, n: int = N) -> bytes:
    return request(Phase.AGREE, messages.bitmap(marked(n, who)))


def unmask(endorsements: dict[int, bytes]) -> bytes:
    """What asks for shares, with these endorsements."""
    given = sorted(endorsements)
    head = messages.numbers((*NO_ATTEMPT, len(given)))
    return request(Phase.UNMASK, head, messages.numbers(given), *(endorsements[i] for i in given))


def endorsed(world: World, bitmaps: dict[int, bytes]) -> dict[int, bytes]:
    """Everybody's reply to the bitmap that the server shows it: its body, or nothing where it refuses."""
    found = {}
    for who, bitmap in bitmaps.items():
        try:
            found[who] = world.reborn(who).agree(bitmap)[46:]
        except messages.ProtocolError:
            continue
    return found


def shown_to(who: int, world: World, server: Server, found: dict[int, bytes], alive: Sequence[int]) -> dict[int, bytes]:
    """The endorsements as one device gets them: the signatures, or the tags made for it."""
    if world.terms.signed:
        return found
    shown = {}
    for sender, tags in found.items():
        near = [v for v in server._table[sender] if v in alive]
        if who in near:
            shown[sender] = tags[16 * near.index(who) : 16 * near.index(who) + 16]
    return shown


def corrupt_endorsement(world: World, sender: int, who: int, statement: bytes) -> bytes:
    """What a corrupt participant gives for any statement at all."""
    if world.terms.signed:
        return crypto.sign(world.identities[sender].signing, statement)
    [root] = read_channels(world.stores[sender], [who])
    return pairs.statement_tag(root, sender, who, statement)


@both_variants
def test_a_victim_listed_as_dropped_to_some_and_as_survivor_to_others_is_not_unmasked(variant: Variant) -> None:
    """Who is told that 3 dropped out would reveal its key, who is told otherwise its self mask; nobody reveals either.

    Two of the eight are corrupt, as assumed, and endorse whatever the server wants.
    """
    world = World(N, t=5, corrupt=2, variant=variant)
    server = world.until(Phase.AGREE)
    views = {i: list(range(N)) if i in {0, 1, 3} else [0, 1, 2, 4, 5, 6, 7] for i in range(6)}
    found = endorsed(world, {i: survivors(*views[i]) for i in views})
    assert set(found) == set(views)
    for who, alive in views.items():
        statement = server._session.statement(marked(N, range(N)), marked(N, alive))
        same = {i: text for i, text in found.items() if views[i] == alive}
        shown = shown_to(who, world, server, same, alive)
        shown |= {i: corrupt_endorsement(world, i, who, statement) for i in (6, 7)}
        with refused("signed the statement|vouch for"):
            world.snapshot(who).unmask(unmask(shown))
        others = shown_to(who, world, server, {i: t for i, t in found.items() if i in alive}, alive)
        with refused("has not signed|vouch for"):  # nor with those of the other half, who saw another bitmap
            world.snapshot(who).unmask(unmask(others | shown))


@both_variants
def test_a_second_bitmap_in_an_attempt_is_refused_for_ever(variant: Variant) -> None:
    world = World(N, variant=variant)
    world.until(Phase.AGREE)
    world.reborn(0).agree(survivors(*range(N)))
    for again in (survivors(*range(N - 1)), survivors(*range(N))):
        with refused("late, early or repeated"):
            world.reborn(0).agree(again)


@both_variants
def test_a_bitmap_without_the_device_with_the_dropped_or_below_the_minimum_is_refused(variant: Variant) -> None:
    world = World(N, t=4, variant=variant, n_min=5)
    server = world.until(Phase.SHARES)
    world.step(server, without=(7,))
    server.advance()
    world.step(server)
    for bitmap, why in (
        (survivors(1, 2, 3, 4, 5, 6), "do not include this device"),
        (survivors(0, 1, 2, 3, 4, 7), "had dropped out before"),
        (survivors(0, 1, 2, 3), "fewer than the minimum cohort of 5"),
        (request(Phase.AGREE, b"\xff\xff"), "too long"),
        (request(Phase.AGREE), "too early"),
    ):
        with refused(why):
            world.reborn(0).agree(bitmap)
    world.reborn(0).agree(survivors(0, 1, 2, 3, 4))  # the refused ones have not used up the one bitmap


def test_endorsers_must_be_a_quorum_and_stand_for_the_minimum_cohort() -> None:
    """Nine of twelve signed; the server shows too few of them, or none, or one twice, or of somebody dead."""
    world = World(12, k=6, t=4, corrupt=2, n_min=9)
    server = world.until(Phase.AGREE)
    found = endorsed(world, {i: survivors(*range(11), n=12) for i in range(11)})
    assert server._session.parameters.quorum == 8
    signatures = {i: found[i] for i in range(9)}
    for shown, why in (
        ({i: found[i] for i in range(7)}, "7 participants signed the statement; 8 that stand for 9 users must"),
        ({i: found[i] for i in range(8)}, "8 participants signed the statement; 8 that stand for 9 users must"),
        ({}, "0 participants signed"),
        ({**signatures, 8: found[7]}, "Participant 8 has not signed"),
        ({**signatures, 11: found[8]}, "no survivor"),
        ({**signatures, 12: found[8]}, "no survivor"),
    ):
        with refused(why):
            world.snapshot(0).unmask(unmask(shown))
    twice = request(Phase.UNMASK, messages.numbers((0, 0, 2, 1, 1)), found[1], found[1])
    with refused("twice or out of order"):
        world.snapshot(0).unmask(twice)
    assert world.snapshot(0).unmask(unmask(signatures))


@both_variants
def test_a_replayed_attempt_is_refused_and_so_is_an_earlier_one(variant: Variant) -> None:
    world = World(N, variant=variant)
    server = world.server(Attempt(2, 1))
    recorded = []
    while True:
        recorded.append(dict(server.routes))
        world.step(server)
        if server.phase is Phase.UNMASK:
            break
        server.advance()
    for phase, routes in zip(Phase, recorded, strict=True):
        with refused("used|late, early or repeated"):
            world.answer(phase, 0, routes[0])
    for attempt in (Attempt(2, 1), Attempt(2, 0), Attempt(1, 7)):
        with refused("has used round 2, attempt 1 already"):
            world.reborn(0).advert(request(Phase.ADVERT, attempt=attempt))
    with refused("does not come after"):
        again = world.until(Phase.UNMASK, world.server(Attempt(3, 0)))
        backwards = again.routes[0][:46] + messages.numbers((2, 1)) + again.routes[0][54:]
        world.answer(Phase.UNMASK, 0, backwards)


@both_variants
def test_messages_of_another_run_version_or_kind_are_refused(variant: Variant) -> None:
    world = World(N, variant=variant)
    server = world.until(Phase.MASKED)
    message = server.routes[0]
    for wrong, why in (
        (request(Phase.MASKED, message[46:], run=bytes(32)), "another run"),
        (message[:3] + b"\x02" + message[4:], "protocol version 2"),
        (b"ABC" + message[3:], "no secure aggregation message"),
        (message[:5] + b"\x01" + message[6:], "out of order"),
        (server._frame(Phase.AGREE, message[46:]), "out of order"),
        (b"", "too short"),
    ):
        with refused(why):
            world.answer(Phase.MASKED, 0, wrong)
    with refused("late, early or repeated"):
        world.reborn(0).agree(survivors(*range(N)))
    with refused("late, early or repeated"):
        world.reborn(0).unmask(unmask({}))


@both_variants
def test_a_list_of_sharers_that_differs_between_devices_leaves_the_sum_closed(variant: Variant) -> None:
    """Told that 7 shared nothing, 0 leaves out their mask; then no statement of it agrees with the others'."""
    world = World(N, t=4, variant=variant)
    server = world.until(Phase.MASKED)
    near = server._table[0]
    boxes = [
        server.routes[0][47 + i * pairs.SEALED_BYTES :][: pairs.SEALED_BYTES] for i, v in enumerate(near) if v != 7
    ]
    lie = request(Phase.MASKED, messages.bitmap(marked(N, range(7))), *boxes)
    server.receive(0, world.answer(Phase.MASKED, 0, lie))
    world.step(server, without=(0,))
    server.advance()
    bitmap = survivors(*range(7))
    found = endorsed(world, dict.fromkeys(range(7), bitmap))
    for who in range(7):
        if who == 0 or world.terms.signed:
            with refused("has not signed|vouch for"):
                world.reborn(who).unmask(unmask(shown_to(who, world, server, found, range(7))))


@both_variants
def test_one_message_that_arrives_twice_at_the_same_time_is_answered_once(tmp_path: Path, variant: Variant) -> None:
    """Two vectors under the same masks would reveal their difference."""
    world = World(4, variant=variant, stores=[FolderStore(tmp_path / str(i)) for i in range(4)], size=100_000)
    message = world.until(Phase.MASKED).routes[0]
    answered, refusals = [], []

    def handle(vector: npt.NDArray[np.uint32]) -> None:
        try:
            answered.append(world.reborn(0).masked(message, vector))
        except messages.ProtocolError as error:
            refusals.append(error)

    threads = [threading.Thread(target=handle, args=(world.vectors[i],)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(answered), len(refusals)) == (1, 2)


@both_variants
def test_no_device_ever_gives_both_secrets_of_a_neighbour(variant: Variant) -> None:
    """Of each neighbour one share leaves, the one that the bitmap asks for; by the replies themselves."""
    world = World(N, t=4, variant=variant)
    server = world.until(Phase.MASKED)
    world.step(server, without=(6, 7))
    server.advance()
    world.until(Phase.UNMASK, server)
    for who, reply in world.step(server).items():
        body = messages.Reader(memoryview(reply)[46:], "a reply")
        opened = np.flatnonzero(body.bitmap(N - 1))
        shares = body.fields(len(opened), shamir.SHARE_BYTES)
        body.end()
        near = server._table[who]
        for i, share in zip(opened, shares, strict=True):
            which = pairs.PAIR if near[i] in {6, 7} else pairs.SELF
            number = server._table[near[i]].index(who)
            tags = server._deals[near[i]].tags
            assert pairs.share_tags(server._session, near[i], which, [who], [share]) == [tags[which][number]]
    assert np.array_equal(server.finish().total, world.ring_sum(range(6)))


@both_variants
def test_what_is_revealed_of_a_dropped_device_opens_none_of_its_other_attempts(variant: Variant) -> None:
    world = World(N, t=4, variant=variant)
    attempts = Attempt(1, 0), Attempt(1, 1)
    kept = []
    for attempt in attempts:
        server = world.until(Phase.MASKED, world.server(attempt))
        kept.append(Records(world.stores[0], RUN).progress(attempt, Phase.SHARES).seeds)
        world.step(server, without=(0,))
        server.advance()
        world.until(Phase.UNMASK, server)
        world.step(server)
        opening = server._opening
        revealed = b"".join(seed for _, seed in opening._pair_seeds(0, opening._secret(0)))
        assert revealed == kept[-1]
    seeds = [seeds[i : i + 32] for seeds in kept for i in range(0, len(seeds), 32)]
    assert len(set(seeds)) == 2 * (N - 1)
