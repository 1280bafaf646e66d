"""The audits can fail: every planted fault is found by the test that is there for it, and a sound release by none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedrec.audit.canary_run import audit
from fedrec.privacy.mechanism import IntegerNoise, seeded_noise
from fedrec.randomness import Key
from tests.audit.faults import CERTAIN, FAULTS, Fault, by_interaction, experiment, objections

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
    assert not any(objections(make(seed)) for seed in range(100, 110))  # at .1% each; the seeds are fixed


@pytest.mark.slow
def test_false_alarms_of_all_tests_together_are_rare() -> None:
    alarms = sum(bool(objections(experiment(seed))) for seed in range(1000, 2000))
    assert alarms <= 5  # of 1,000 runs at .1%, more than 5 with probability 6e-4; the seeds are fixed


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


@pytest.mark.parametrize("found_in", CERTAIN.values(), ids=CERTAIN.keys())
def test_what_records_and_keys_show_is_found_always(found_in: Callable[[int], int]) -> None:
    assert found_in(8) == 8  # the figure for 40 is printed by: python -m simulations.audits
