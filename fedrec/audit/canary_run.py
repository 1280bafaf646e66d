"""``fedrec audit canary``: an experiment is rehearsed with canaries, and its releases are held against its promise."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from fedrec.audit.canaries import dense, row_sparse
from fedrec.audit.judgement import Judgement, judge
from fedrec.audit.probes import interaction_canaries, user_canaries
from fedrec.audit.rehearsal import RESERVED, Probe, Rehearsal, widened
from fedrec.config import Experiment
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.data.splits import split
from fedrec.errors import PrivacyError, UsageError
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation, Plan, State
from fedrec.models.base import Budget, build
from fedrec.privacy import accounting
from fedrec.randomness import Key
from fedrec.release import Release

RESULT = "audit-canary.json"

_CANARIES = 1000
"""Canaries that take part, where the releases have room for them and for as many others."""

_RESERVED = 8192
"""Coordinates that show noise alone: a deviation 4% too small is seen."""

_INTERACTIONS = 400
"""Clients that hold one interaction each, as far as these touch no common row."""


def audit(experiment: Experiment, canaries: int | None = None, rows: int | None = None, seed: int = 0) -> Judgement:
    """Load an experiment's data and rehearse it with canaries.

    Args:
        experiment: a private one.
        canaries: that take part; as many others do by a fair coin. None takes 1,000, or what there is room for.
        rows: item rows of each canary; None makes them dense.
        seed: of the canaries and the coins.

    Raises:
        PrivacyError: if the experiment has no privacy, or adds its noise inside of local training.
        UsageError: if the canaries do not fit.
    """
    if experiment.privacy.epsilon is None:
        raise PrivacyError("There is no privacy to audit here: set privacy.epsilon.")
    if experiment.noise_inside:
        raise PrivacyError(
            "Canaries replace what training gives, and here the noise is added inside of training: audit it with "
            "privacy.trust = 'distributed'."
        )
    began = time.perf_counter()
    data = source.load(experiment.data)
    users = split(data, experiment.split, Key(experiment.seed)).train
    prepared = prepare(experiment, users, canaries, rows, seed)
    events = [mechanism.events()["user"] for mechanism in prepared.plain.mechanisms]
    about = {
        "delta": experiment.privacy.delta,
        "unit": experiment.privacy.unit,
        "trust": experiment.privacy.trust,
        "accountant": accounting.accountant_of(events),
        "model": experiment.model.name,
        "data": users.name,
        "users": users.n_users,
        "canaries": prepared.canaries,
        "rows": rows,
        "experiment": experiment.digest(),
        "seed": seed,
    }
    found = judge(prepared.plain, list(prepared.rehearsal.rounds()), prepared.canaries, about)
    return replace(found, about={**about, "seconds": time.perf_counter() - began})


@dataclass(frozen=True, eq=False)
class Prepared:
    """An experiment ready to be rehearsed.

    Attributes:
        plain: the federation over real users and probes, as it declares its releases.
        rehearsal: the same, watched.
        canaries: how many certainly take part; as many more do by a coin.
    """

    plain: Federation
    rehearsal: Rehearsal
    canaries: int


def prepare(
    experiment: Experiment, users: Interactions, canaries: int | None = None, rows: int | None = None, seed: int = 0
) -> Prepared:
    """The rehearsal of an experiment with these real users; arguments and errors are those of `audit`."""
    # Everyone takes part and nobody colludes: the shares then add up to the very noise that the promise counts on.
    experiment = experiment.replaced(federation={"cohort": None, "min_cohort": None}, privacy={"colluders": 0})
    catalogue = users.catalogue
    releases = build(experiment).releases(catalogue, Budget(0.0, users.n_users))  # noise does not change their shapes
    room = min(_room(release, rows, len(catalogue)) for release in releases)
    n = min(_CANARIES, room // 3) if canaries is None else canaries
    if not 0 < 2 * n <= room:
        raise UsageError(
            f"{n} canaries and as many others do not fit {room} coordinates; take up to {room // 2} with --canaries."
        )
    draw = np.random.default_rng(seed)
    took_part = np.append(np.ones(n, np.bool_), draw.integers(2, size=n) == 1)
    singles = _INTERACTIONS if experiment.privacy.unit == "interaction" else 0
    plain = make_federation(experiment, catalogue, users.n_users + 2 * n + singles)
    federation, watched = widened(plain, _RESERVED)

    def probes(state: State, plan: Plan) -> list[Probe]:
        first, release = users.n_users, plan.release
        if rows is None:
            known = dense(release, 2 * n, draw, without=RESERVED)
        else:
            known = row_sparse(release, len(catalogue), rows, 2 * n, draw, without=RESERVED)
        found: list[Probe] = [user_canaries(watched, catalogue, known, took_part, plan.mechanism.clip_norm, first)]
        if singles:
            found.append(interaction_canaries(watched, catalogue, state, plan, first + 2 * n, singles, draw))
        return found

    return Prepared(plain, Rehearsal(federation, users, probes), n)


def _room(release: Release, rows: int | None, n_items: int) -> int:
    """How many orthogonal canaries a release has room for."""
    if rows is None:
        return release.size
    used = n_items // min(rows, n_items) * min(rows, n_items)
    return sum(c.size // n_items * used for c in release.components if c.shape[:1] == (n_items,))
