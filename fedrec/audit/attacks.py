"""``fedrec audit attack``: what a named observer can tell of a run's users, with the promised privacy and without any.

``audit-attack.json`` holds (version 1):

- ``verdict``: ``consistent``, or ``weaker than declared`` where more guesses are right than the declared events allow;
  ``p_value``: the smallest of all games after Holm, which objects from ``false_alarm`` down.
- ``view``, ``sees``: the observer, and what it sees.
- ``attacks``, by name (``interaction``, ``size``, ``user``, ``zero rows``): ``private`` and ``without_privacy``, each
  ``{advantage, low, high, ...}`` over chance with a 95% interval, and ``bound``: the largest advantage that the
  declared events allow at this view, null where nothing is declared against it. Games count ``guesses`` and
  ``correct`` ones; the scan counts ``zero`` rows among ``untouched`` and ``touched`` ones.
- ``delta``, ``unit``, ``trust``, ``epsilon`` (by unit, at this view), ``model``, ``data``, ``users``, ``targets`` (of
  each game), ``shadow_runs``, ``runs``, ``colluders``, ``experiment`` (its digest), ``seed``,
  ``seconds``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np

from fedrec.audit.detectors import FALSE_ALARM, Finding, adjusted
from fedrec.audit.estimate import CONFIDENCE
from fedrec.audit.games import GAMES, Advantage, World, clopper_pearson, coins, guess, make_world, suitable
from fedrec.audit.observers import SEES, Observer, View
from fedrec.audit.vectors import Bools
from fedrec.config import Experiment
from fedrec.contribution import Ints
from fedrec.data import source
from fedrec.data.interactions import Interactions
from fedrec.data.splits import split
from fedrec.errors import PrivacyError, UsageError, did_you_mean
from fedrec.federation.planning import make_federation
from fedrec.federation.round import Federation
from fedrec.privacy import accounting, renyi
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent
from fedrec.randomness import Key

RESULT = "audit-attack.json"

_TARGETS = 100
"""Targets of each game, where there are users enough."""

_UNIT = {"interaction": "interaction", "size": "interaction", "user": "user"}
"""What each game's coin changes."""

_SCANNED = 50
"""Single vectors that are scanned for zero rows."""


@dataclass(frozen=True)
class Scan:
    """Rows that are exactly zero, and what they tell of who touched them.

    Attributes:
        advantage: the part of untouched rows that are zero, minus that of touched ones.
        low, high: a 95% interval: two of Clopper & Pearson at 97.5%.
        zero: rows that are zero.
        untouched, touched: rows that nobody, or somebody, in what is seen has touched.
    """

    advantage: float
    low: float
    high: float
    zero: int
    untouched: int
    touched: int


@dataclass(frozen=True)
class Attack:
    """One attack, with privacy and without; ``bound`` is the largest advantage that is declared possible."""

    private: Advantage | Scan
    without_privacy: Advantage | Scan
    bound: float | None

    @property
    def finding(self) -> Finding | None:
        """Whether more guesses are right than the declared events allow; None where nothing is declared."""
        if self.bound is None or not isinstance(self.private, Advantage):
            return None
        from scipy.stats import binom

        right = float(binom.sf(self.private.correct - 1, self.private.guesses, (1 + self.bound) / 2))
        return Finding("guesses", right, f"{self.private.correct} of {self.private.guesses} right")


@dataclass(frozen=True)
class AttackResult:
    """What an observer can tell; the fields are those of ``audit-attack.json``."""

    view: View
    attacks: Mapping[str, Attack]
    about: Mapping[str, Any]

    @property
    def p_value(self) -> float:
        """The smallest of all games, after Holm; 1 where nothing is declared."""
        findings = [attack.finding for attack in self.attacks.values()]
        return min(adjusted([finding for finding in findings if finding is not None]), default=1.0)

    @property
    def sound(self) -> bool:
        """Whether no attack does better than is declared possible."""
        return self.p_value > FALSE_ALARM

    def as_json(self) -> dict[str, Any]:
        """The content of ``audit-attack.json``."""
        return {
            "version": 1,
            "verdict": "consistent" if self.sound else "weaker than declared",
            "p_value": self.p_value,
            "false_alarm": FALSE_ALARM,
            "view": self.view,
            "sees": SEES[self.view],
            "attacks": {name: asdict(attack) for name, attack in self.attacks.items()},
            **self.about,
        }


def attack(
    experiment: Experiment,
    view: str = "server",
    targets: int | None = None,
    shadows: int = 8,
    runs: int = 4,
    seed: int = 0,
) -> AttackResult:
    """Load an experiment's data, and play and guess.

    Args:
        experiment: a private one.
        view: the observer.
        targets: users that each game is about; None takes 100, or what there are users for.
        shadows: runs that the attacker learns from, rounded up to an even number.
        runs: runs that it guesses in.
        seed: of targets and coins.

    Raises:
        PrivacyError: if the experiment has no privacy.
        UsageError: for an unknown view, or too few users, shadow runs or runs.
    """
    if experiment.privacy.epsilon is None:
        raise PrivacyError("There is no privacy to attack here: set privacy.epsilon.")
    known = next((name for name in get_args(View) if name == view), None)
    if known is None:
        raise UsageError(f"Unknown view '{view}'. {did_you_mean(view, get_args(View))}")
    if shadows < 2 or runs < 1:
        raise UsageError(f"An attack needs 2 shadow runs and 1 run at least, not {shadows} and {runs}.")
    began = time.perf_counter()
    data = source.load(experiment.data)
    users = split(data, experiment.split, Key(experiment.seed)).train
    found = attack_on(experiment, users, known, targets, shadows, runs, seed)
    return replace(found, about={**found.about, "seconds": time.perf_counter() - began})


def attack_on(
    experiment: Experiment, users: Interactions, view: View, targets: int | None, shadows: int, runs: int, seed: int
) -> AttackResult:
    """The attacks on a federation of these users."""
    digest = experiment.digest()
    experiment = experiment.replaced(federation={"cohort": None, "min_cohort": None})  # everyone takes part
    draw = np.random.default_rng(seed)
    n = min(_TARGETS, len(suitable(users)) // (len(GAMES) + 1)) if targets is None else targets
    world = make_world(users, n, draw)
    colluders = _colluders(experiment, world)
    private = make_federation(experiment, users.catalogue, users.n_users)
    plain = make_federation(experiment.replaced(privacy={"epsilon": None}), users.catalogue, users.n_users)
    learning = coins(len(world.users), shadows + shadows % 2, draw, paired=True)
    asked = coins(len(world.users), runs, draw)
    both = [_play(Observer(federation, view, colluders), world, learning, asked) for federation in (private, plain)]
    declared = _declared(private, view, len(colluders))
    about = {
        "delta": experiment.privacy.delta,
        "unit": experiment.privacy.unit,
        "trust": experiment.privacy.trust,
        "epsilon": {unit: declared[unit].epsilon if unit in declared else None for unit in ("user", "interaction")},
        "model": experiment.model.name,
        "data": users.name,
        "users": users.n_users,
        "targets": n,
        "shadow_runs": len(learning),
        "runs": runs,
        "colluders": len(colluders) if view == "colluder" else 0,
        "experiment": digest,
        "seed": seed,
    }
    bounds = {name: declared[unit].advantage for name, unit in _UNIT.items() if unit in declared}
    attacks = {name: Attack(both[0][name], both[1][name], bounds.get(name)) for name in both[0]}
    return AttackResult(view, attacks, about)


def _play(observer: Observer, world: World, learning: Bools, asked: Bools) -> dict[str, Advantage | Scan]:
    """Learn from some runs, guess in others, and scan one."""
    shadows = [observer.watch(world, heads, run) for run, heads in enumerate(learning, start=1)]
    seen = [observer.watch(world, heads, run)[0] for run, heads in enumerate(asked, start=len(learning) + 1)]
    scores, strength = np.array([score for score, _ in shadows]), np.mean([size for _, size in shadows], axis=0)
    found: dict[str, Advantage | Scan] = {}
    for number, name in enumerate(GAMES):
        own = world.game == number
        guessed = guess(scores[:, own], learning[:, own], np.array(seen)[:, own], strength[own])
        found[name] = Advantage.of(int((guessed == asked[:, own]).sum()), guessed.size)
    found["zero rows"] = _scanned(*observer.scan(world.data(asked[0]), world.users[:_SCANNED]))
    return found


def _scanned(zero: Bools, touched: Bools) -> Scan:
    free, met = int((~touched).sum()), int(touched.sum())
    hits, misses = int((zero & ~touched).sum()), int((zero & touched).sum())
    if not free or not met:  # everything or nothing was touched: there is nothing to tell apart
        return Scan(0.0, 0.0, 0.0, hits + misses, free, met)
    confidence = (1 + CONFIDENCE) / 2
    (hit_low, hit_high), (miss_low, miss_high) = (
        clopper_pearson(hits, free, confidence),
        clopper_pearson(misses, met, confidence),
    )
    return Scan(hits / free - misses / met, hit_low - miss_high, hit_high - miss_low, hits + misses, free, met)


def _colluders(experiment: Experiment, world: World) -> Ints:
    """Positions of clients that collude: as many as the promise assumes, at least one; no target does."""
    wanted = max(experiment.privacy.colluders, 1)
    free = np.setdiff1d(np.arange(world.full.n_users), world.users)
    if len(free) < wanted:
        raise UsageError(f"{wanted} colluders do not fit beside the targets; take fewer with --targets.")
    return free[-wanted:]


def _declared(federation: Federation, view: View, colluders: int) -> dict[str, Declared]:
    """What is declared against an observer, by unit; nothing where the observer is trusted."""
    privacy = federation.experiment.privacy
    if view in {"server", "colluder"} and privacy.trust == "central":
        return {}
    share = 1.0
    if view == "colluder" and privacy.trust == "distributed":
        share = (federation.population - colluders) / (federation.population - privacy.colluders)
    less = [replace(m, noise_multiplier=m.noise_multiplier * math.sqrt(share)) for m in federation.mechanisms]
    by_unit = [mechanism.events() for mechanism in less]
    return {unit: Declared.of([events[unit] for events in by_unit], privacy.delta) for unit in by_unit[0]}


@dataclass(frozen=True)
class Declared:
    """What events declare: epsilon at the experiment's delta, and the largest advantage of any guesser of a coin."""

    epsilon: float
    advantage: float

    @classmethod
    def of(cls, events: Sequence[Event], delta: float) -> Declared:
        """The largest advantage is the total variation distance of the two worlds.

        It is exact for Gaussians at rate 1. Else it is the least of what (epsilon, delta) allows (Kairouz, Oh &
        Viswanath 2015, "The composition theorem for differential privacy") and half the root of the chi-square
        divergence, which Rényi's of order 2 gives.
        """
        epsilon = accounting.report_epsilon(events, delta)
        gaussians = [event for event in events if isinstance(event, GaussianEvent) and event.sampling_rate == 1]
        if len(gaussians) == len(events):
            mu = math.hypot(*(math.sqrt(event.steps) / event.noise_multiplier for event in gaussians))
            return cls(epsilon, accounting.gaussian_delta(0.0, mu))
        allowed = math.tanh(epsilon / 2) + 2 * delta / (1 + math.exp(min(epsilon, 700.0)))
        chi_square = math.expm1(min(float(renyi.composed(events)[0]), 700.0))
        apart = math.fsum(event.distance for event in events if isinstance(event, SkellamEvent))
        return cls(epsilon, min(allowed, math.sqrt(chi_square) / 2 + apart, 1.0))
