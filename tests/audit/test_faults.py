"""The audits can fail: every planted fault is found by the test that is there for it, and a sound release by none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedrec.audit.canary_run import audit
from fedrec.privacy.mechanism import IntegerNoise, seeded_noise
from fedrec.randomness import Key
from fedrec.secagg import crypto
from fedrec.secagg.messages import Attempt, Phase, ProtocolError
from tests.audit.faults import FAULTS, Fault, by_interaction, experiment, objections
from tests.secagg.world import World, replaced, request

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


@every_fault
def test_a_planted_fault_is_found_by_its_own_test(fault: Fault) -> None:
    for seed in range(1, 4):
        assert fault.found_by in objections(fault.experiment(seed), fault.plant)


@pytest.mark.slow
@every_fault
def test_a_planted_fault_is_found_in_38_of_40_runs_or_in_all(fault: Fault) -> None:
    found = sum(fault.found_by in objections(fault.experiment(seed), fault.plant) for seed in range(1, 41))
    assert found >= (40 if fault.deterministic else 38)


@pytest.mark.parametrize("make", [experiment, by_interaction])
def test_no_test_objects_to_a_sound_release(make: Any) -> None:
    # 40 runs at .5%: one alarm at most with probability .98, and the seeds are fixed
    assert sum(bool(objections(make(seed))) for seed in range(100, 120)) <= 1


@pytest.mark.slow
def test_false_alarms_of_all_tests_together_are_rare() -> None:
    alarms = sum(bool(objections(experiment(seed))) for seed in range(1000, 2000))
    assert alarms <= 10  # of 1,000 runs at .5%, more than 10 with probability .013; the seeds are fixed


def test_half_the_noise_is_found_on_integers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(key: Key, part: int) -> IntegerNoise:
        honest = seeded_noise(key, part)
        return lambda variance, n: honest(variance / 4, n)

    monkeypatch.setattr("fedrec.federation.round.seeded_noise", planted)
    found = objections(experiment(1, privacy={"noise": "skellam"}))
    assert {"noise on canaries", "noise on reserved coordinates"} <= found


def test_vectors_that_are_not_clipped_raise_the_estimate_beyond_anything_declared() -> None:
    with FAULTS["no clip"].plant():
        found = audit(experiment(1), canaries=50)
    assert not found.sound
    assert found.as_json()["verdict"] == "weaker than declared"
    assert found.levels["user"].white_box.low > 100 * found.levels["user"].epsilon


def test_negatives_as_samples_show_in_the_estimate_of_single_interactions() -> None:
    """Four negatives clipped each with the positive are √10 clip norms long along their whole gradient."""
    with FAULTS["negatives as samples"].plant():
        found = audit(by_interaction(1), canaries=50)
    level = found.levels["interaction"]
    assert level.white_box.mu == pytest.approx(np.sqrt(10) * np.sqrt(2) / 2, rel=0.2)
    assert level.white_box.low > level.epsilon


def test_a_replayed_attempt_of_secure_aggregation_is_always_refused() -> None:
    for _ in range(40):
        world = World(4)
        recorded = world.until(Phase.MASKED).routes[0]
        world.answer(Phase.MASKED, 0, recorded)
        with pytest.raises(ProtocolError, match=r"used|late, early or repeated"):
            world.answer(Phase.MASKED, 0, recorded)
        with pytest.raises(ProtocolError, match="has used"):
            world.reborn(0).advert(request(Phase.ADVERT, attempt=Attempt(1, 0)))


def test_a_stale_key_of_secure_aggregation_is_always_refused() -> None:
    """A neighbour signs the mask key of an earlier attempt again."""
    for _ in range(40):
        world = World(4)
        first = world.until(Phase.SHARES)
        old = first._adverts[1][:64]
        world.until(Phase.MASKED, first)
        later = world.until(Phase.SHARES, world.server(Attempt(2, 0)))
        again = old + crypto.sign(world.identities[1].signing, world.terms.advert_text(1, Attempt(2, 0), old))
        with pytest.raises(ProtocolError, match="a key that it used in an earlier attempt"):
            world.answer(Phase.SHARES, 0, replaced(later.routes[0], later._adverts[1], again))
