"""One release of 50,000 coordinates by 20 users, with 1,000 canaries and as many by a coin."""

from __future__ import annotations

from functools import cache

from fedrec.audit.canary_run import prepare
from fedrec.audit.estimate import estimate
from fedrec.audit.one_run import bound, guesses_for
from fedrec.config import Experiment
from fedrec.privacy.accounting import calibrate_events
from fedrec.privacy.events import GaussianEvent
from tests.audit.faults import experiment, training

CANARIES = 1000
DELTA = 1e-5


def release(seed: int, sigma: float) -> Experiment:
    """One round of popularity with this noise multiplier."""
    return experiment(
        seed,
        data={"n_items": 50_000, "n_users": 20},
        model={"name": "popularity"},
        privacy={"noise_multiplier": sigma, "delta": DELTA},
    )


@cache
def noise_for(epsilon: float) -> float:
    return calibrate_events(epsilon, DELTA, lambda sigma: [GaussianEvent(sigma)])


@cache
def _guesses(epsilon: float) -> int:
    return guesses_for(CANARIES, 1 / noise_for(epsilon), DELTA)


def measured(epsilon: float, seed: int) -> tuple[float, float]:
    """The white-box estimate and the one-run bound of a release that spends epsilon."""
    made = release(seed, noise_for(epsilon))
    prepared = prepare(made, training(made), CANARIES, seed=seed)
    (seen,) = prepared.rehearsal.rounds()
    scores, took_part = seen.white["user"], seen.took_part["user"]
    found = estimate(scores[:CANARIES], scores[~took_part], DELTA)
    lower = bound(scores[CANARIES:], took_part[CANARIES:], _guesses(epsilon), DELTA)
    return found.epsilon, lower.epsilon
