"""What a rehearsal shows, judged: estimates of epsilon beside the declared one, and every test with its p-value.

A result's JSON, ``audit-canary.json``, holds (version 1):

- ``verdict``: ``consistent``, or ``weaker than declared`` where a test objects; ``p_value``: the smallest of all tests
  after Holm, which objects from ``false_alarm`` down.
- ``levels``, by unit: ``epsilon`` as declared, by the accountant; ``gaussian_epsilon`` of continuous Gaussian noise of
  that deviation by the exact conversion, beside which estimates stand; ``white_box`` and ``black_box``, estimates from
  the releases with all known vectors subtracted and from the releases as they are: ``{epsilon, low, high, mu, mu_low,
  mu_high, canaries}`` with 95% intervals; ``one_run``, the lower bound ``{epsilon, canaries, guesses, correct}`` at 95%
  confidence, null for single interactions.
- ``delta``, ``unit``, ``trust``, ``accountant``, ``model``, ``data``, ``users``, ``canaries``, ``rows`` (item rows of a
  canary, null if dense), ``experiment`` (its digest), ``seed``, ``seconds``.
- ``findings``: every test ``{name, p_value, adjusted, detail}``.
- ``rounds``: ``{round, release, coordinates, noise_std, mu}``; mu is that of the white-box estimate of the round alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedrec.audit.detectors import (
    FALSE_ALARM,
    Finding,
    adjusted,
    bare_rows,
    repeated_noise,
    too_little_noise,
    too_long,
)
from fedrec.audit.estimate import Estimate, estimate
from fedrec.audit.one_run import Bound, bound, guesses_for
from fedrec.audit.rehearsal import Observed
from fedrec.contribution import Floats
from fedrec.federation.round import Federation
from fedrec.privacy import accounting
from fedrec.privacy.mechanism import Unit

_UNITS: tuple[Unit, ...] = ("user", "interaction")

_FEW = 10
"""Fewer orthogonal interactions than this in some round say nothing."""

_MESSAGES = 256
"""Single messages whose noise is compared, of all rounds together."""


@dataclass(frozen=True)
class Level:
    """What was declared for a unit, and what the canaries show; the fields are those of the JSON."""

    epsilon: float
    gaussian_epsilon: float
    white_box: Estimate
    black_box: Estimate
    one_run: Bound | None


@dataclass(frozen=True)
class Judgement:
    """What an audit with canaries found.

    Attributes:
        levels: by unit.
        findings: every test.
        rounds: as in the JSON.
        about: what was audited, with the names of the JSON.
    """

    levels: dict[str, Level]
    findings: tuple[Finding, ...]
    rounds: tuple[dict[str, Any], ...]
    about: dict[str, Any]

    @property
    def p_value(self) -> float:
        """The smallest of all tests, after Holm."""
        return min(adjusted(self.findings))

    @property
    def sound(self) -> bool:
        """Whether no test objects."""
        return self.p_value > FALSE_ALARM

    def as_json(self) -> dict[str, Any]:
        """The content of ``audit-canary.json``."""
        values = zip(self.findings, adjusted(self.findings), strict=True)
        return {
            "version": 1,
            "verdict": "consistent" if self.sound else "weaker than declared",
            "p_value": self.p_value,
            "false_alarm": FALSE_ALARM,
            "levels": {unit: asdict(level) for unit, level in self.levels.items()},
            **self.about,
            "findings": [{**asdict(finding), "adjusted": value} for finding, value in values],
            "rounds": list(self.rounds),
        }


def judge(plain: Federation, observed: Sequence[Observed], n: int, about: dict[str, Any]) -> Judgement:
    """Estimates and tests of a rehearsal.

    Args:
        plain: the federation as it declares its releases.
        observed: what every round showed.
        n: the first n user canaries all took part, the others by a coin.
        about: what was audited.
    """
    return Judgement(
        levels={unit: found for unit in _UNITS if (found := _level(plain, observed, n, unit)) is not None},
        findings=tuple(findings_of(plain, observed, n)),
        rounds=tuple(_round(one, n, plain.experiment.privacy.delta) for one in observed),
        about=about,
    )


def findings_of(plain: Federation, observed: Sequence[Observed], n: int) -> list[Finding]:
    """Every test of a rehearsal; the arguments are those of `judge`."""
    sides = [_sides(one, n) for one in observed]
    left = np.concatenate([np.append(inside - inside.mean(), outside) for inside, outside in sides])
    findings = [
        too_little_noise("noise on canaries", left, left.size - len(sides)),
        too_little_noise("noise on reserved coordinates", np.concatenate([one.reserved for one in observed])),
        bare_rows(
            sum(one.zero_rows for one in observed),
            sum(one.rows for one in observed),
            max(one.zero_chance for one in observed),
        ),
    ]
    for unit in _UNITS:
        if (found := _Scores.of(plain, observed, "white", n, unit)) is not None:
            findings.append(too_long(f"{unit}s' clip", found.inside, found.mu))
    if len(observed) > 1:
        sums = np.array([one.reserved[0] for one in observed])
        findings.append(repeated_noise("rounds' noise independent", sums))
    shares = np.concatenate([one.shares[: max(_MESSAGES // len(observed), 2)] for one in observed])
    if len(shares):
        findings.append(repeated_noise("clients' noise independent", shares))
    return findings


@dataclass(frozen=True)
class _Scores:
    """Scores of a rehearsal's rounds as one release.

    Attributes:
        inside: of canaries that all took part, N(mu, 1) as declared.
        outside: of canaries that did not, N(0, 1).
        by_coin: of those that took part by a coin; empty for interactions.
        mu: the declared bound.
    """

    inside: Floats
    outside: Floats
    by_coin: Floats
    mu: float

    @classmethod
    def of(
        cls, plain: Federation, observed: Sequence[Observed], box: Literal["white", "black"], n: int, unit: Unit
    ) -> _Scores | None:
        """Scores of all rounds, weighted like a likelihood ratio, so that mu² adds up; None of too few interactions."""
        mechanisms = [plain.mechanisms[one.plan.round - 1] for one in observed]
        bounds = [m.clip_norm if unit == "user" else m.sensitivity for m in mechanisms]
        mus = np.array([bound / m.noise_std for bound, m in zip(bounds, mechanisms, strict=True)])
        weights = mus / math.hypot(*mus)
        users = np.tensordot(weights, [getattr(one, box)["user"] for one in observed], axes=1)
        outside = users[~observed[0].took_part["user"]]
        if unit == "user":
            return cls(users[:n], outside, users[n:], math.hypot(*mus))
        single = [getattr(one, box)[unit][one.took_part[unit]] for one in observed if unit in one.took_part]
        k = min((len(one) for one in single), default=0)
        if k < _FEW:
            return None
        return cls(np.tensordot(weights, [one[:k] for one in single], axes=1), outside, np.zeros(0), math.hypot(*mus))


def _level(plain: Federation, observed: Sequence[Observed], n: int, unit: Unit) -> Level | None:
    """What was declared for a unit, and what is seen of it; None where nothing is."""
    white, black = (_Scores.of(plain, observed, box, n, unit) for box in ("white", "black"))
    if white is None or black is None:
        return None
    delta, coins = plain.experiment.privacy.delta, observed[0].took_part["user"][n:]
    by_coin = None
    if len(white.by_coin):
        by_coin = bound(white.by_coin, coins, guesses_for(n, white.mu, delta), delta)
    return Level(
        epsilon=accounting.report_epsilon([mechanism.events()[unit] for mechanism in plain.mechanisms], delta),
        gaussian_epsilon=accounting.gaussian_epsilon(white.mu, delta),
        white_box=estimate(white.inside, white.outside, delta),
        black_box=estimate(black.inside, black.outside, delta),
        one_run=by_coin,
    )


def _sides(one: Observed, n: int) -> tuple[Floats, Floats]:
    """A round's scores of the first n user canaries, and of those that took no part."""
    return one.white["user"][:n], one.white["user"][~one.took_part["user"]]


def _round(one: Observed, n: int, delta: float) -> dict[str, Any]:
    """A round's line."""
    return {
        "round": one.plan.round,
        "release": one.plan.release.name,
        "coordinates": one.plan.release.size - one.reserved.shape[1],
        "noise_std": one.plan.mechanism.noise_std,
        "mu": estimate(*_sides(one, n), delta).mu,
    }
