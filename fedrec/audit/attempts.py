"""A ledger's attempts, replayed line by line against the experiment: what was charged, and every fault in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from fedrec.audit.record import Opening, Reserve
from fedrec.audit.views import UNITS
from fedrec.config import Experiment
from fedrec.errors import BudgetExceededError, LedgerError, PrivacyError
from fedrec.privacy.budget import Filter
from fedrec.privacy.events import Event, GaussianEvent, from_fields, to_fields
from fedrec.privacy.grid import Grid
from fedrec.privacy.mechanism import Mechanism
from fedrec.privacy.modes import training_plan
from fedrec.privacy.proofs import Record, canonical_json

_OUTCOMES = ("commit", "abort", "release")

_ROUNDING = 1e-9
"""How far a recomputed number may be from the recorded one, relatively."""


@dataclass(frozen=True)
class Terms:
    """What a line declares that reserves an attempt, and what is wrong with it; equal lines share one."""

    declared: Reserve
    events: Mapping[str, Event]
    faults: tuple[str, ...]


@dataclass
class Attempt:
    """An attempt with its terms and the line that ended it; None while it is open."""

    round: int
    attempt: int
    terms: Terms
    ended: Record | None = None

    @property
    def outcome(self) -> str:
        return "open" if self.ended is None else str(self.ended["type"])

    @property
    def survivors(self) -> int | None:
        return None if self.ended is None else self.ended.get("survivors")


@dataclass
class Replay:
    """A ledger as it was written, from its second line on.

    Attributes:
        opening: the first line.
        experiment: what was to be run; None where that cannot be read.
        attempts: by round and attempt, in order.
        committed: by round, the attempt that its model comes from: the last one, where a crash lost one before.
        faults: by the name of a check, each text with the numbers of its lines.
    """

    opening: Opening
    experiment: Experiment | None
    attempts: dict[tuple[int, int], Attempt] = field(default_factory=dict)
    committed: dict[int, Attempt] = field(default_factory=dict)
    faults: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    _terms: dict[bytes, Terms | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._filter = Filter(self.opening.epsilon, self.opening.delta)
        self._last = (0, 0)
        self._released: Counter[int] = Counter()

    @property
    def charged(self) -> list[Attempt]:
        return [one for one in self.attempts.values() if one.outcome != "release"]

    def events(self, unit: str) -> list[Event]:
        """What is charged at a unit."""
        return [one.terms.events[unit] for one in self.charged if unit in one.terms.events]

    def take(self, number: int, record: Record) -> None:
        """Go on by the line of this number."""
        kind = record.get("type")
        if kind == "reserve":
            self._reserve(number, record)
        elif kind in _OUTCOMES:
            self._end(number, record)
        else:
            self._fault("attempts", number, f"it is of type {kind!r}, which follows no opening")

    def sentences(self, check: str) -> list[str]:
        """The faults of a check, a sentence each."""
        found = []
        for text, lines in self.faults.get(check, {}).items():
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            found.append(f"ledger.jsonl, line {lines[0]}{more}: {text}.")
        return found

    def _reserve(self, number: int, record: Record) -> None:
        terms = self._read(record)
        if isinstance(terms, str):
            self._fault("mechanism", number, terms)
            return
        key = (record["round"], record["attempt"])
        for text in terms.faults:
            self._fault("mechanism", number, text)
        for text in self._order(*key):
            self._fault("attempts", number, text)
        if key in self.attempts:
            return
        self._last = max(self._last, key)
        self.attempts[key] = Attempt(*key, terms)
        if self.opening.epsilon is None:
            self._fault("budget", number, "it charges a run whose opening promises no epsilon")
        try:
            self._filter.check(terms.events[self.opening.unit], key[0])
        except BudgetExceededError as error:
            self._fault("budget", number, str(error).rstrip("."))
        self._filter.add(terms.events[self.opening.unit])

    def _order(self, round_: int, attempt: int) -> Iterator[str]:
        last = self._last
        if (round_, attempt) in self.attempts:
            yield f"round {round_}, attempt {attempt} is reserved a second time"
        elif (round_, attempt) <= last or round_ > last[0] + 1 or (round_ > last[0] and attempt != 0):
            yield f"round {round_}, attempt {attempt} does not follow round {last[0]}, attempt {last[1]}"
        elif round_ > max(last[0], 1) and last[0] not in self.committed:
            yield f"round {round_} begins, but round {last[0]} was not committed"
        counted = attempt - self._released[round_]
        if self.experiment is not None and counted >= self.experiment.federation.attempts:
            yield f"attempt {attempt} is one more than federation.attempts = {self.experiment.federation.attempts}"

    def _end(self, number: int, record: Record) -> None:
        key = _place(record)
        one = None if key is None else self.attempts.get(key)
        if one is None or one.ended is not None:
            how = "ends, but was not reserved" if one is None else "ends a second time"
            self._fault("attempts", number, f"round {record.get('round')}, attempt {record.get('attempt')} {how}")
            return
        one.ended = record
        terms, survivors = one.terms.declared, record.get("survivors")
        if one.outcome == "commit":
            self.committed[one.round] = one
        elif one.outcome == "release":
            self._released[one.round] += 1
            self._filter.remove(one.terms.events[self.opening.unit])
        least = terms.min_cohort if one.outcome == "commit" else 0
        if type(survivors) is not int or not least <= survivors <= terms.cohort:
            span = f"between {least} and {terms.cohort}"
            self._fault("survivors", number, f"a {one.outcome} with {survivors!r} survivors, where {span} can be")

    def _read(self, record: Record) -> Terms | str:
        """A reserve line's terms, or what makes it unreadable."""
        if _place(record) is None:
            return f"round {record.get('round')!r}, attempt {record.get('attempt')!r} is no attempt"
        about = {key: value for key, value in record.items() if key not in ("prev", "round", "attempt", "clients")}
        try:
            key = canonical_json(about)
        except ValueError:
            return "it holds what a ledger cannot hold"
        if key not in self._terms:
            self._terms[key] = self._judge({**about, "round": 1, "attempt": 0})
        return self._terms[key]

    def _judge(self, record: Mapping[str, Any]) -> Terms | str:
        try:
            declared = Reserve.model_validate(record)
            events = {unit: from_fields(fields) for unit, fields in declared.events.items()}
        except ValidationError as error:
            first = error.errors()[0]
            return f"its '{'.'.join(str(part) for part in first['loc'])}' is wrong: {first['msg'].lower()}"
        except LedgerError as error:
            return str(error).rstrip(".")
        if self.opening.unit not in events or not set(events) <= set(UNITS):
            return f"it declares events for {sorted(events)}, where the promise is about '{self.opening.unit}'"
        faults = () if self.experiment is None else tuple(_faults(self.experiment, self.opening, declared, events))
        return Terms(declared, events, faults)

    def _fault(self, check: str, number: int, text: str) -> None:
        self.faults.setdefault(check, {}).setdefault(text, []).append(number)


def _place(record: Record) -> tuple[int, int] | None:
    """Round and attempt of a line; None where it has none."""
    round_, attempt = record.get("round"), record.get("attempt")
    if type(round_) is int and type(attempt) is int and round_ >= 1 and attempt >= 0:
        return round_, attempt
    return None


def _faults(experiment: Experiment, opening: Opening, declared: Reserve, events: Mapping[str, Event]) -> Iterator[str]:
    """Where a line says something else than the experiment fixes, or than its own numbers give."""
    federation, privacy = experiment.federation, experiment.privacy
    cohort = federation.cohort or opening.users
    asked = cohort
    if experiment.data.name == "devices" and cohort and declared.min_cohort <= declared.cohort <= cohort:
        asked = declared.cohort  # a server asks the devices that it reaches, and no fewer than the promise counts on
    pairs = {
        "trust": (declared.trust, privacy.trust),
        "cohort": (declared.cohort, asked),
        "min_cohort": (declared.min_cohort, federation.min_cohort or cohort),
        "colluders": (declared.colluders, privacy.colluders),
    }
    for name, (said, planned) in pairs.items():
        if planned is not None and said != planned:
            yield f"{name} is {said!r}, but the experiment's is {planned!r}"
    try:
        yield from _costs(experiment, declared, events)
    except PrivacyError as error:
        yield f"it declares no mechanism: {str(error).rstrip('.')}"


def _costs(experiment: Experiment, declared: Reserve, events: Mapping[str, Event]) -> Iterator[str]:
    """Where clip norm, sensitivity, scale and events do not belong together."""
    privacy, scale = experiment.privacy, None
    planned: dict[str, Event]
    if experiment.noise_inside:
        step = training_plan(experiment, "opacus")
        if step is None:
            raise PrivacyError("its model does not train by clipped samples.")
        clips, sensitivity = [step.clip_norm], step.clip_norm
        planned = {privacy.unit: GaussianEvent(declared.noise_multiplier, step.sampling_rate, step.steps)}
    else:
        mechanism = _mechanism(experiment, declared)
        clips, sensitivity = [privacy.clip_norm, 1.0], mechanism.sensitivity  # 1 is that of a statistic
        scale = None if mechanism.grid is None else mechanism.grid.scale
        # How far one interaction moves the sum is not in the line of a promise about users.
        planned = {unit: mechanism.events()[unit] for unit in sorted({"user", privacy.unit})}
    if not any(_same(declared.clip_norm, clip) for clip in clips):
        yield f"clip_norm is {declared.clip_norm!r}, but the experiment's is {clips[0]!r}"
    for name, said, right in (
        ("sensitivity", declared.sensitivity, sensitivity),
        ("scale", declared.scale, scale),
    ):
        if not _same(said, right):
            yield f"{name} is {said!r}, but clip norm, coordinates and experiment give {right!r}"
    for unit, event in planned.items():
        if unit not in events or not _same_event(events[unit], event):
            yield f"what it charges at unit '{unit}' is not what its noise multiplier, clip norm and cohort cost"


def _mechanism(experiment: Experiment, declared: Reserve) -> Mechanism:
    """The mechanism that a line's numbers describe, with the experiment's kind of noise."""
    privacy = experiment.privacy
    grid = None
    if experiment.noise == "skellam":
        grid = Grid.fine(declared.coordinates, declared.clip_norm, declared.sensitivity, privacy.resolution)
    return Mechanism(
        noise_multiplier=declared.noise_multiplier,
        clip_norm=declared.clip_norm,
        trust=privacy.trust,
        min_cohort=declared.min_cohort,
        colluders=declared.colluders,
        unit=privacy.unit,
        interaction=declared.sensitivity if privacy.unit == "interaction" else None,
        grid=grid,
    )


def _same_event(left: Event, right: Event) -> bool:
    one, other = to_fields(left), to_fields(right)
    if one.pop("kind") != other.pop("kind"):
        return False
    return all(_same(float(value), float(other[name])) for name, value in one.items())


def _same(left: float | None, right: float | None) -> bool:
    if left is None or right is None:
        return left is right
    return math.isclose(left, right, rel_tol=_ROUNDING)
