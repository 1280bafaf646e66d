"""``summary.json`` read back: checked once, at the edge, so that reports and comparisons work with plain fields.

Reading is lenient where a run may leave something out (no sampled view, no baselines) and strict where a figure would
otherwise be shown that is not one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fedrec.errors import RunFolderError

Figures = dict[str, float | None]


class Part(BaseModel):
    """A part of the summary: frozen; keys that a later fedrec adds are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Dataset(Part):
    """The data after its filters; ``interactions`` is None where they are on devices and nobody can count them."""

    name: str
    users: int
    items: int
    interactions: int | None


class Integers(Part):
    """The same noise on integers, as devices add it: epsilon beside that of the Gaussian under the same conversion."""

    epsilon: float
    gaussian_epsilon: float
    accountant: str


class Privacy(Part):
    """What was promised. ``epsilon`` is None for a run without privacy; ``unprotected`` says what it leaves out."""

    unit: str = "user"
    adjacency: str = "zero-out"
    trust: str = "distributed"
    epsilon: float | None = Field(None, ge=0)
    delta: float = Field(1e-5, ge=0, lt=1)
    noise_multiplier: float | None = None
    noise_multipliers: tuple[float, ...] = ()
    clip_norm: float | None = None
    accountant: str | None = None
    target_epsilon: float | None = None
    noise_source: str | None = None
    aggregation: str | None = None
    integers: Integers | None = None
    levels: dict[str, float | None] = {}
    unprotected: tuple[str, ...] = ()

    @field_validator("noise_multipliers", "unprotected", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return () if value is None else value


class Measured(Part):
    """The metrics of one split.

    Attributes:
        full: by name (``hr@10``), every unseen item a candidate.
        sampled: by name, the held-out item among ``negatives`` sampled ones; empty where not measured.
        negatives: of the sampled view.
        groups: ``light`` and ``heavy`` users apart, each with its own ``users``.
        users: measured users.
    """

    full: Figures
    sampled: Figures = {}
    negatives: int = 99
    groups: dict[str, Figures] = {}
    users: int = 0

    @model_validator(mode="before")
    @classmethod
    def _sampled_view(cls, value: Any) -> Any:
        """``sampled99`` carries the number of negatives in its name."""
        if not isinstance(value, Mapping):
            return value
        found = {key: re.fullmatch(r"sampled(\d+)", str(key)) for key in value}
        named = {key: int(match.group(1)) for key, match in found.items() if match}
        views: dict[str, Any] = {}
        for key, negatives in named.items():
            views = {"sampled": value[key] or {}, "negatives": negatives}
        return {**value, "groups": value.get("groups") or {}, **views}


class Split(Part):
    """The metrics of validation and test."""

    validation: Measured | None = None
    test: Measured | None = None


class Baseline(Split):
    """Another model's metrics, at its own epsilon (None: no privacy)."""

    epsilon: float | None = None


class Communication(Part):
    """Bytes over the whole run."""

    up_bytes_per_client: float | None = None
    down_bytes_per_client: float | None = None
    total_bytes: float | None = None


class Time(Part):
    """Seconds, and clients a second."""

    wall_s: float | None = None
    train_s: float | None = None
    clients_per_s: float | None = None


class Memory(Part):
    """The peak of the process, in 10^6 bytes."""

    peak_rss_mb: float | None = None


class Sample(Part):
    """What one user is recommended: titles of the history (oldest first), of the list, and the held-out one."""

    user: str
    history: tuple[str, ...] = ()
    recommended: tuple[str, ...] = ()
    held_out: str | None = None

    @field_validator("user", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value)


class Summary(Part):
    """A finished run."""

    experiment: str = ""
    dataset: Dataset
    model: str
    engine: str
    rounds: int
    seed: int
    privacy: Privacy
    metrics: Split
    baselines: dict[str, Baseline] = {}
    communication: Communication = Communication()
    time: Time = Time()
    memory: Memory = Memory()
    versions: dict[str, str] = {}
    samples: tuple[Sample, ...] = ()
    rejected: int = 0

    @property
    def private(self) -> bool:
        return self.privacy.epsilon is not None


def parse_summary(raw: Mapping[str, Any], where: str) -> Summary:
    """A summary from the content of ``summary.json``.

    Raises:
        RunFolderError: naming the file ``where`` and the key that is missing or not what it should be.
    """
    try:
        return Summary.model_validate(raw)
    except ValidationError as error:
        raise RunFolderError(f"'{where}' is damaged: {first_fault(error)}; repeat the run.") from error


def first_fault(error: ValidationError) -> str:
    """The key that was wrong first, and why."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    return f"'{key}': {first['msg'][0].lower()}{first['msg'][1:]}"


def list_length(figures: Figures) -> int:
    """The list length that headlines use: 10 where measured, else the shortest that was."""
    measured = sorted(int(name.removeprefix("hr@")) for name in figures if re.fullmatch(r"hr@\d+", name))
    return 10 if 10 in measured or not measured else measured[0]
