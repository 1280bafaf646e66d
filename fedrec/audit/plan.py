"""Before a federation starts: what a promise takes in users, noise and bytes, and by recorded runs in utility."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from fedrec.audit.recorded import Expected, expected, record
from fedrec.audit.views import Charge, Coalition, Epsilons, View, coalitions, declared, second, views
from fedrec.errors import ConfigError, UsageError, did_you_mean
from fedrec.privacy import accounting, skellam
from fedrec.privacy.events import Event
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism, Trust, Unit
from fedrec.secagg.parameters import Parameters, choose

SURVIVAL = 0.99
"""The probability with which every round keeps the least cohort at its first attempt."""

MF_COORDINATES = 1682 * (64 + 1)
"""Coordinates of a round of the default model (``mf``, dimension 64, with biases) on MovieLens-100K."""

LADDER = (0.5, 1.0, 2.0, 4.0, 8.0)
"""The epsilons that a plan compares."""

_FURTHER = 64
"""How many more users are tried where there are too few."""

Kind = Literal["skellam", "gaussian"]


@dataclass(frozen=True)
class Question:
    """What is to be planned: an epsilon for which noise is wanted, or noise for which epsilon is.

    Attributes:
        users: asked in every round.
        rounds: releases; where local training carries the noise, its steps.
        epsilon: of the whole run, or None.
        noise_multiplier: of every round, or None.
        delta: the probability that the promise does not cover.
        dropout: the probability with which a user who was asked does not answer.
        corrupt: the part of those asked who are assumed to collude with whoever looks on.
        unit: ``user`` or ``interaction``.
        trust: ``distributed``, ``local`` or ``central``.
        coordinates: of one release.
        interaction: how far one interaction can move a user's vector, in clip norms; None where no bound is proved.
        resolution: integer units that stand for the clip norm, over the root of the number of coordinates.

    Raises:
        UsageError: naming the option that is out of range.
    """

    users: int
    rounds: int = 1
    epsilon: float | None = None
    noise_multiplier: float | None = None
    delta: float = 1e-5
    dropout: float = 0.1
    corrupt: float = 0.0
    unit: Unit = "user"
    trust: Trust = "distributed"
    coordinates: int = MF_COORDINATES
    interaction: float | None = None
    resolution: float = 64.0

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise UsageError(
                "Give --epsilon to plan its noise, or --noise-multiplier to learn its epsilon, one of them."
            )
        noise = self.noise_multiplier
        limits: dict[str, tuple[float | None, bool, str]] = {
            "users": (self.users, 2 <= self.users <= 10**9, "from 2 to 1e9"),
            "rounds": (self.rounds, 1 <= self.rounds <= 10_000, "from 1 to 10000"),
            "epsilon": (self.epsilon, self.epsilon is None or 0.01 <= self.epsilon <= 100, "from 0.01 to 100"),
            "noise-multiplier": (noise, noise is None or 0.01 <= noise <= 1e6, "from 0.01 to 1e6"),
            "delta": (self.delta, 1e-30 <= self.delta < 1, "from 1e-30 to below 1"),
            "dropout": (self.dropout, 0 <= self.dropout < 1, "from 0 to below 1"),
            "corrupt": (self.corrupt, 0 <= self.corrupt < 1, "from 0 to below 1"),
            "coordinates": (self.coordinates, 1 <= self.coordinates <= 10**10, "from 1 to 1e10"),
            "interaction-clip": (self.interaction, self.interaction is None or 0 < self.interaction <= 2, "in (0, 2]"),
            "resolution": (self.resolution, 1 <= self.resolution <= 4096, "from 1 to 4096"),
        }
        for option, word, known in (("unit", self.unit, get_args(Unit)), ("trust", self.trust, get_args(Trust))):
            if word not in known:
                raise UsageError(f"--{option} cannot be '{word}'. {did_you_mean(word, known)}")
        for name, (value, valid, wanted) in limits.items():
            if not valid:
                raise UsageError(f"--{name} must be {wanted}, not {value}.")
        if self.unit == "interaction" and self.interaction is None:
            raise UsageError(
                "--unit interaction needs --interaction-clip, the proved bound in clip norms, such as 0.1."
            )


@dataclass(frozen=True)
class Noise:
    """One kind of noise under the plan.

    Attributes:
        kind: ``skellam`` on integers, as devices add it, or the continuous ``gaussian``, for comparison.
        noise_multiplier: of every round.
        epsilon: of the whole run, by unit.
        accountant: what priced it.
    """

    kind: Kind
    noise_multiplier: float
    epsilon: Epsilons
    accountant: str


@dataclass(frozen=True)
class Step:
    """One rung of the ladder: an epsilon (None: no bound), its noise, and the recorded runs nearest to it."""

    epsilon: float | None
    noise_multiplier: float
    noise_to_signal: float
    expected: tuple[Expected, ...]


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        question: what was asked.
        min_cohort: the largest number of users that every round keeps with probability ``survival``.
        survival: that probability.
        colluders: users of the least cohort whose noise does not count.
        noises: the noise that devices add, first, and what it is compared with.
        second: another accountant and its epsilon for the first of them, at the question's unit; None where none can.
        share_std: standard deviation of one client's share of the noise, in clip norms.
        share_units: the same in integer units; None without a grid.
        ring_bits: bits of a coordinate on the wire; None without a grid.
        up_bytes: a client's vector in a round.
        down_bytes: the shared model, float32.
        aggregation: sizes of secure aggregation; None where it is not needed.
        views: what holds against whom.
        coalitions: how that weakens as clients collude.
        ladder: what other budgets would cost.
    """

    question: Question
    min_cohort: int
    survival: float
    colluders: int
    noises: tuple[Noise, ...]
    second: tuple[str, float | None] | None
    share_std: float
    share_units: float | None
    ring_bits: int | None
    up_bytes: int
    down_bytes: int
    aggregation: Parameters | None
    views: tuple[View, ...]
    coalitions: tuple[Coalition, ...]
    ladder: tuple[Step, ...]

    @property
    def epsilon(self) -> float | None:
        """Of the whole run at the question's unit."""
        return self.noises[0].epsilon[self.question.unit]

    @property
    def own(self) -> Step:
        """The rung of the plan itself."""
        return next(step for step in self.ladder if step.noise_multiplier == self.noises[0].noise_multiplier)


def plan(question: Question) -> Plan:
    """Answer a question.

    Raises:
        UsageError: if no honest user is left in the least cohort, or secure aggregation serves no such users.
        PrivacyError: if no noise is enough, or none that the sampler can draw.
    """
    least, colluders = least_cohort(question)
    aggregation = _aggregation(question, least, colluders) if question.trust == "distributed" else None
    kinds: tuple[Kind, ...] = ("gaussian",) if question.trust == "central" else ("skellam", "gaussian")
    noises = tuple(_noise(question, kind, least, colluders) for kind in kinds)
    mechanism = _mechanism(question, kinds[0], noises[0].noise_multiplier, least, colluders)
    charges = [Charge(question.trust, least, colluders, mechanism.events())] * question.rounds
    share, grid = mechanism.share_std(1), mechanism.grid
    if grid is not None:
        skellam.distance((share * grid.scale) ** 2)  # refuses what no device can draw
    return Plan(
        question=question,
        min_cohort=least,
        survival=SURVIVAL,
        colluders=colluders,
        noises=noises,
        second=second([charge.events[question.unit] for charge in charges], question.delta),
        share_std=share,
        share_units=None if grid is None else share * grid.scale,
        ring_bits=None if grid is None else mechanism.bits,
        up_bytes=question.coordinates * (8 if grid is None else mechanism.bits // 8),
        down_bytes=question.coordinates * 4,
        aggregation=aggregation,
        views=views(charges, question.delta),
        coalitions=coalitions(charges, question.delta),
        ladder=_ladder(question, kinds[0], noises[0], least, colluders),
    )


def as_json(found: Plan) -> dict[str, Any]:
    """The attributes of `Plan` as JSON values; secure aggregation also in words, and what the recorded runs were."""
    runs = {key: value for key, value in record().items() if key != "runs"}
    sizes = found.aggregation
    described = None if sizes is None else {**asdict(sizes), "described": sizes.describe()}
    return {"version": 1, **asdict(replace(found, aggregation=None)), "aggregation": described, "recorded": runs}


def least_cohort(question: Question) -> tuple[int, int]:
    """The largest number of users that every round keeps with probability `SURVIVAL`, and the colluders among them.

    Raises:
        UsageError: if none of them is honest.
    """
    from scipy.stats import binom

    failing = (1 - SURVIVAL) / question.rounds  # a round's part of the union bound over all of them
    least = int(binom.ppf(failing, question.users, 1 - question.dropout)) if question.dropout else question.users
    colluders = math.ceil(question.corrupt * question.users - 1e-9)
    if least - colluders < 1:
        raise UsageError(
            f"Of {question.users} users, {least} are sure to answer and {colluders} may collude, which leaves nobody "
            "honest; raise --users, or lower --dropout or --corrupt."
        )
    return least, colluders


def _aggregation(question: Question, least: int, colluders: int) -> Parameters:
    """The sizes of secure aggregation.

    Raises:
        UsageError: if there are none, with the fewest users that there are some for.
    """
    found = _sizes(question.users, least, colluders)
    if found is not None:
        return found
    enough = next((n for n in range(question.users + 1, question.users + _FURTHER) if _serves(question, n)), None)
    more = "" if enough is None else f"--users {enough}, "
    both = f" and {colluders} collude" if colluders else ""
    raise UsageError(
        f"Of {question.users} users asked, {question.users - least} may stay away{both}, and then too few are left to "
        f"open the sum, which takes more than half of everybody's partners; give {more}a smaller --dropout, or --trust "
        "local."
    )


def _sizes(users: int, least: int, colluders: int) -> Parameters | None:
    """Of secure aggregation; half a user more, so that the shares round down to exactly these users."""
    try:
        return choose(users, (colluders + 0.5) / users, (users - least + 0.5) / users)
    except ConfigError:
        return None


def _serves(question: Question, users: int) -> bool:
    """Whether there would be sizes for so many users."""
    try:
        return _sizes(users, *least_cohort(replace(question, users=users))) is not None
    except UsageError:
        return False


def _mechanism(question: Question, kind: Kind, multiplier: float, least: int, colluders: int) -> Mechanism:
    """One round's mechanism; the clip norm is the unit of length."""
    mechanism = Mechanism(
        noise_multiplier=multiplier,
        clip_norm=1.0,
        trust=question.trust,
        min_cohort=least,
        colluders=colluders,
        unit=question.unit,
        interaction=question.interaction,
    )
    if kind == "gaussian":
        return mechanism
    grid = Grid.fine(question.coordinates, 1.0, mechanism.sensitivity, question.resolution)
    return replace(
        mechanism, grid=grid, bits=grid.bits(question.users, mechanism.total_std(question.users) * grid.scale)
    )


def _noise(question: Question, kind: Kind, least: int, colluders: int) -> Noise:
    """The noise that the question gives, or that its epsilon takes."""
    multiplier = question.noise_multiplier
    if multiplier is None:
        multiplier = _calibrated(question, kind, question.epsilon or 0.0, least, colluders)
    costs = _mechanism(question, kind, multiplier, least, colluders).events()
    charges = [Charge(question.trust, least, colluders, costs)] * question.rounds
    return Noise(kind, multiplier, declared(charges, question.delta), accounting.accountant_of([costs[question.unit]]))


def _calibrated(question: Question, kind: Kind, epsilon: float, least: int, colluders: int) -> float:
    def events(multiplier: float) -> Sequence[Event]:
        return [_mechanism(question, kind, multiplier, least, colluders).events()[question.unit]] * question.rounds

    return accounting.calibrate_events(epsilon, question.delta, events)


def _ladder(question: Question, kind: Kind, own: Noise, least: int, colluders: int) -> tuple[Step, ...]:
    """Other budgets beside the plan's own, by epsilon."""

    def step(epsilon: float | None, multiplier: float) -> Step:
        std = _mechanism(question, kind, multiplier, least, colluders).total_std(least)
        # As one release: what the recorded runs are compared by.
        ratio = std / least / math.sqrt(question.rounds)
        return Step(epsilon, multiplier, ratio, expected(ratio))

    steps = [step(question.epsilon or own.epsilon[question.unit], own.noise_multiplier)]
    for epsilon in LADDER:
        if epsilon != question.epsilon:
            steps.append(step(epsilon, _calibrated(question, kind, epsilon, least, colluders)))
    return tuple(sorted(steps, key=lambda one: math.inf if one.epsilon is None else one.epsilon))
