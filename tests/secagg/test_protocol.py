"""Everybody honest: the sum is that of the survivors, bit for bit, whoever drops out where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from fedrec.errors import ConfigError, RoundFailedError
from fedrec.secagg.local import drive, secure_sum
from fedrec.secagg.messages import NO_ATTEMPT, Attempt, Phase
from fedrec.secagg.parameters import Parameters, choose
from fedrec.secagg.session import Session, Terms, Variant
from fedrec.secagg.store import FolderStore, Store
from tests.secagg.world import RUN, VARIANTS, World, both_variants


@st.composite
def sums(draw: st.DrawFn) -> tuple[Parameters, dict[Phase, set[int]], Variant]:
    """Sizes and dropouts that the sizes survive: in a k-regular graph up to k - t leave everybody t neighbours."""
    n = draw(st.integers(2, 14))
    k = draw(st.integers(1, n - 1).filter(lambda k: n * k % 2 == 0))
    t = draw(st.integers(k // 2 + 1, k))
    sizes = Parameters(n, k, t)
    leaving = draw(st.permutations(range(n)))[: draw(st.integers(0, min(k - t, n - sizes.quorum)))]
    dropped: dict[Phase, set[int]] = {}
    for who in leaving:
        dropped.setdefault(draw(st.sampled_from(list(Phase)[1:])), set()).add(who)
    return sizes, dropped, draw(st.sampled_from(VARIANTS))


@settings(max_examples=60, deadline=None)
@given(sums(), st.sampled_from(["uint32", "uint64"]), st.integers(0, 50))
def test_the_sum_is_that_of_the_survivors_bit_for_bit(
    case: tuple[Parameters, dict[Phase, set[int]], Variant], dtype: str, size: int
) -> None:
    sizes, dropped, variant = case
    vectors = np.random.default_rng(size).integers(0, np.iinfo(dtype).max, (sizes.n, size), dtype, endpoint=True)
    gone = dropped.get(Phase.SHARES, set()) | dropped.get(Phase.MASKED, set())
    survivors = [i for i in range(sizes.n) if i not in gone]
    total = secure_sum(vectors, sizes, dropped, variant=variant)
    assert total.dtype == vectors.dtype
    assert np.array_equal(total, vectors[survivors].sum(axis=0, dtype=dtype))


@both_variants
@pytest.mark.parametrize("phase", Phase)
def test_a_tenth_may_drop_out_at_any_step(phase: Phase, variant: Variant) -> None:
    n = 20
    vectors = np.random.default_rng(1).integers(0, 2**32, (n, 30), np.uint32)
    dropped = {phase: set(range(0, n, 10))}
    survivors = [i for i in range(n) if i % 10] if phase <= Phase.MASKED else list(range(n))
    total = secure_sum(vectors, choose(n), dropped, variant=variant)
    assert np.array_equal(total, vectors[survivors].sum(axis=0, dtype=np.uint32))


@both_variants
@pytest.mark.parametrize("phase", Phase)
def test_nothing_is_opened_below_the_minimum_cohort_whatever_the_step(phase: Phase, variant: Variant) -> None:
    """Two of eight leave: six are left, and seven must be."""
    world = World(8, t=4, variant=variant, n_min=7)
    server = world.until(phase)
    world.step(server, without=(0, 1))
    if phase is Phase.UNMASK:  # all eight have agreed on the eight: their sum is what they agreed on
        assert np.array_equal(server.finish().total, world.ring_sum(range(8)))
        return
    with pytest.raises(RoundFailedError, match=r"6 users .* minimum cohort of 7; nothing was unmasked"):
        server.advance()


@both_variants
def test_a_sum_with_too_few_holders_of_a_share_fails_before_anything_is_unmasked(variant: Variant) -> None:
    world = World(8, t=6, variant=variant)
    server = world.until(Phase.MASKED)
    world.step(server, without=(0, 1))
    with pytest.raises(RoundFailedError, match="5 holders and needs 6; nothing was unmasked"):
        server.advance()


def test_too_few_shares_at_the_last_step_fail_the_attempt() -> None:
    world = World(8, t=6)
    server = world.until(Phase.UNMASK)
    world.step(server, without=(0, 1, 2))
    with pytest.raises(RoundFailedError, match="valid shares of participant"):
        server.finish()


@both_variants
def test_the_minimum_cohort_counts_users_not_participants(variant: Variant) -> None:
    users = [1, 1, 1, 1, 1, 50]
    for n_min, gone, works in ((55, (), True), (56, (), False), (51, (0, 1), True), (51, (5,), False), (5, (5,), True)):
        world = World(6, t=3, variant=variant, n_min=n_min, users=users)
        server = world.server()
        if not works and not gone:
            world.step(server)
            with pytest.raises(RoundFailedError):
                server.advance()
            continue
        world.until(Phase.MASKED, server)
        world.step(server, without=gone)
        if not works:
            with pytest.raises(RoundFailedError):
                server.advance()
            continue
        server.advance()
        world.until(Phase.UNMASK, server)
        world.step(server)
        result = server.finish()
        assert result.users == sum(users[i] for i in range(6) if i not in gone)
        assert np.array_equal(result.total, world.ring_sum(result.survivors))


@both_variants
def test_adverts_travel_in_the_reply_before_so_that_an_attempt_takes_four_messages(variant: Variant) -> None:
    world, seen = World(variant=variant), set[bytes]()
    adverts: dict[int, bytes] = {}
    attempts = [Attempt(1, 0), Attempt(2, 0), Attempt(2, 1), Attempt(3, 0)]
    for attempt, following in zip(attempts, [*attempts[1:], NO_ATTEMPT], strict=True):
        server = world.server(attempt, adverts=adverts, following=following, seen=seen)
        asked = []
        while True:
            asked.append(len(server.routes))
            world.step(server)
            if server.phase is Phase.UNMASK:
                break
            server.advance()
        result = server.finish()
        assert asked == [8 if attempt == attempts[0] else 0, 8, 8, 8, 8]
        assert np.array_equal(result.total, world.ring_sum(range(8)))
        assert set(result.adverts) == (set(range(8)) if following != NO_ATTEMPT else set())
        adverts = dict(result.adverts)


@both_variants
def test_an_advert_for_another_attempt_is_not_used_and_its_device_is_asked(variant: Variant) -> None:
    world = World(variant=variant)
    ahead = {i: world.step(world.server())[i][-world.terms.advert_bytes :] for i in (0, 1)}
    retry = world.server(Attempt(1, 1), adverts={0: ahead[0], 1: b"garbage"})
    if variant == "signed":  # a nonce is bound to its attempt by the device alone, which refuses then
        assert set(retry.routes) == set(range(8))
        world.until(Phase.UNMASK, retry)
        world.step(retry)
        assert np.array_equal(retry.finish().total, world.ring_sum(range(8)))
    else:
        assert set(retry.routes) == set(range(1, 8))


@both_variants
def test_a_new_process_may_handle_every_message(tmp_path: Path, variant: Variant) -> None:
    """Each answer is by a `Client` made anew from the folder; between any two messages nothing else is left."""
    stores: list[Store] = [FolderStore(tmp_path / str(i)) for i in range(5)]
    world = World(5, variant=variant, stores=stores)
    for attempt in (Attempt(1, 0), Attempt(2, 0)):
        server = world.until(Phase.UNMASK, world.server(attempt, following=Attempt(attempt.round + 1, 0)))
        world.step(server)
        assert np.array_equal(server.finish().total, world.ring_sum(range(5)))


def test_one_masked_vector_alone_is_uniform() -> None:
    """A vector of zeros, masked: chi-square over its bytes, at a false alarm of 1e-6 for all six devices."""
    n, size = 6, 20_000
    world = World(n, size=size)
    world.vectors[:] = 0
    server = world.until(Phase.MASKED)
    replies = world.step(server)
    for reply in replies.values():
        counts = np.bincount(np.frombuffer(reply[-4 * size :], np.uint8), minlength=256)
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < chi2.isf(1e-6 / n, 255)


@both_variants
def test_masks_never_repeat_across_attempts(variant: Variant) -> None:
    """The same vectors in three attempts: what is sent, and what it differs by, are all different and not zero."""
    world, sent = World(variant=variant), []
    for attempt in (Attempt(1, 0), Attempt(1, 1), Attempt(2, 0)):
        server = world.until(Phase.MASKED, world.server(attempt))
        for who, reply in world.step(server).items():
            sent.append(np.frombuffer(reply[-4 * 40 :], "<u4") - world.vectors[who])
    words = np.concatenate(sent)
    assert len(np.unique(words)) >= len(words) - 2  # 960 words of 32 bits: three collisions have odds below 2e-13


@both_variants
def test_a_client_sends_at_most_a_third_more_than_its_plain_vector(variant: Variant) -> None:
    n, size = 20, 50_000
    world = World(n, variant=variant, size=size)
    world.parameters = choose(n, malicious=variant == "signed")
    server, sent = world.server(following=Attempt(2, 0)), 0
    while True:
        sent += len(world.step(server)[7])
        if server.phase is Phase.UNMASK:
            break
        server.advance()
    assert sent <= 1.05 * 4 * size
    assert np.array_equal(server.finish().total, world.ring_sum(range(n)))


def test_a_thousand_would_stay_below_a_third_more() -> None:
    from fedrec.secagg.pairs import SEALED_BYTES

    k = choose(1000).k
    assert 64 + k * (SEALED_BYTES + 2 * 16) + k * 33 + 2 * 128 <= 0.3 * 4 * 50_000


@pytest.mark.parametrize("terms", [{"run": b"short"}, {"n_min": 0}, {"variant": "trusting"}])
def test_terms_that_no_run_can_have_are_refused(terms: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Terms(**{"run": RUN, "n_min": 1, **terms})  # type: ignore[arg-type] # each case names a field


def test_a_server_of_strangers_of_the_past_or_of_no_ring_is_refused() -> None:
    world = World()
    from fedrec.secagg.server import Server

    for cohort, attempt, following, dtype in (
        ([0, 99], Attempt(1, 0), NO_ATTEMPT, "uint32"),
        ([0, 1], NO_ATTEMPT, NO_ATTEMPT, "uint32"),
        ([0, 1], Attempt(2, 0), Attempt(1, 5), "uint32"),
        ([0, 1], Attempt(1, 0), NO_ATTEMPT, "float32"),
    ):
        with pytest.raises(ConfigError):
            Server(world.terms, world.roster, attempt, cohort, 5, dtype=dtype, following=following)


def test_a_client_whose_key_is_not_on_the_roster_is_refused() -> None:
    from fedrec.secagg.client import Client

    world = World()
    with pytest.raises(ConfigError, match="enrol"):
        Client(0, world.identities[1], world.roster, world.stores[0], world.terms)


def test_drive_carries_a_whole_attempt() -> None:
    world = World()
    result = drive(world.server(), dict(enumerate(world.clients)), world.vectors, {Phase.MASKED: {3}})
    assert result.survivors == (0, 1, 2, 4, 5, 6, 7)
    assert np.array_equal(result.total, world.ring_sum(result.survivors))
    assert not result.wrong


def test_everything_that_participants_must_agree_on_is_in_the_context() -> None:
    """Change any one thing, and every derived key, seal and signature of the attempt is another."""
    world = World(4)
    terms, roster, adverts = world.terms, world.roster, [bytes(range(i, i + 128)) for i in range(4)]

    def context(**changed: Any) -> bytes:
        given = {"terms": terms, "roster": roster, "attempt": Attempt(1, 0), "cohort": (0, 1, 2, 3), "adverts": adverts}
        return Session.open(**{**given, **changed}).context

    contexts = [
        context(),
        context(terms=replace(terms, run=bytes(32))),
        context(terms=replace(terms, n_min=2)),
        context(terms=replace(terms, variant="cached")),
        context(terms=replace(terms, choose=lambda n: Parameters(n, 3, 3))),
        context(terms=replace(terms, choose=lambda n: Parameters(n, 3, 2, corrupt=2))),
        context(attempt=Attempt(1, 1)),
        context(attempt=Attempt(2, 0)),
        context(adverts=[*adverts[:3], bytes(range(9, 137))]),
        context(adverts=[adverts[1], adverts[0], *adverts[2:]]),
        context(roster={**roster, 3: replace(roster[3], users=2)}),
        context(roster={**roster, 3: replace(roster[3], identity=bytes(32))}),
        context(roster={**roster, 4: roster[3]}, cohort=(0, 1, 2, 4)),
    ]
    assert len(set(contexts)) == len(contexts)
    assert context() == contexts[0]
