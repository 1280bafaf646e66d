"""What the empirical audits left beside a run, read for its privacy report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from fedrec.errors import RunFolderError
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.summary import Part, first_fault

RESULTS = {"canary": "audit-canary.json", "attack": "audit-attack.json"}
"""The files, by the verb that writes them."""


class Estimate(Part):
    """An estimate of epsilon with its 95% interval; None where it is unbounded."""

    epsilon: float | None
    low: float | None
    high: float | None


class Bound(Part):
    """A lower bound on epsilon."""

    epsilon: float


class Level(Part):
    """What was declared for a unit, and what the canaries show."""

    epsilon: float | None
    gaussian_epsilon: float | None
    white_box: Estimate
    black_box: Estimate
    one_run: Bound | None


class Canaries(Part):
    """``audit-canary.json``, as far as a page shows it."""

    version: Literal[1]
    verdict: str
    p_value: float
    experiment: str
    levels: dict[str, Level]


class Advantage(Part):
    """An attack's advantage over chance, with its 95% interval."""

    advantage: float
    low: float
    high: float


class Attack(Part):
    """An attack on the private run and on the same without privacy, and the most that is allowed to it."""

    private: Advantage
    without_privacy: Advantage
    bound: float | None


class Attacks(Part):
    """``audit-attack.json``, as far as a page shows it."""

    version: Literal[1]
    verdict: str
    view: str
    sees: str
    attacks: dict[str, Attack]


R = TypeVar("R", bound=Part)


def checked(kind: type[R], found: Mapping[str, Any], name: str) -> R:
    """An audit's result as ``kind``.

    Raises:
        RunFolderError: naming the file and the key that is missing or not what it should be.
    """
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        raise RunFolderError(f"'{name}' is damaged: {first_fault(error)}; repeat the audit.") from error


def figure(value: float | None) -> str:
    """What was measured, rounded to the nearest, because it promises nothing."""
    return "none" if value is None else f"{value:.3f}"


def interval(of: Estimate | Advantage) -> str:
    """An estimate with its interval."""
    middle = of.epsilon if isinstance(of, Estimate) else of.advantage
    return f"{figure(middle)} ({figure(of.low)} to {figure(of.high)})"


def read_json(folder: RunFolder, name: str) -> dict[str, Any] | None:
    """A JSON object beside the run; None where there is no such file.

    Raises:
        RunFolderError: if it is damaged.
    """
    if not folder.has(name):
        return None
    try:
        value = json.loads(folder.read_text(name), parse_constant=_refused)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RunFolderError(f"'{folder.path(name)}' is damaged: it is not a JSON object; repeat the audit.")
    return value


def _refused(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
