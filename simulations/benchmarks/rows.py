"""What a benchmark finds: rows, and how they are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured figure.

    Attributes:
        work: what was done; rows of one work are compared.
        name: by whom.
        value: the median.
        unit: of the value and the spread.
        spread: the least and the largest.
        per_s: the same by the clock on the wall, where that is a rate.
        note: whatever a reader must know.
        at: where on a curve, such as the number of users.
    """

    work: str
    name: str
    value: float
    unit: str
    spread: tuple[float, float]
    per_s: float | None = None
    note: str = ""
    at: int | None = None

    def as_json(self) -> dict[str, Any]:
        """As ``fedrec bench --json`` prints it."""
        rate = self.unit == CLIENTS
        found: dict[str, Any] = {"name": self.name, "work": self.work}
        if rate:
            found |= {"clients_per_cpu_s": rounded(self.value)}
            found |= {} if self.per_s is None else {"clients_per_s": rounded(self.per_s)}
        else:
            found |= {"value": rounded(self.value), "unit": self.unit}
        found["spread"] = [rounded(edge) for edge in self.spread]
        found |= {} if self.at is None else {"at": self.at}
        return found | ({"note": self.note} if self.note else {})


CLIENTS = "clients/CPU-s"


class BenchmarkError(Exception):
    """A peer that does not do the same work, or a benchmark that cannot run here; one sentence."""


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def of(work: str, name: str, values: Sequence[float], unit: str, note: str = "", per_s: float | None = None) -> Row:
    """A row from repeated measurements."""
    return Row(work, name, median(values), unit, (min(values), max(values)), per_s, note)


def clients(work: str, name: str, n: int, cpu: Sequence[float], wall: Sequence[float], note: str = "") -> Row:
    """A row of clients a second from the seconds that each repeat took for ``n`` of them."""
    return of(work, name, [n / one for one in cpu], CLIENTS, note, n / median(wall))


def ratio(work: str, name: str, fast: Sequence[float], slow: Sequence[float], note: str = "") -> Row:
    """How many times faster, from seconds (for the same number of clients) of repeats that were taken in turn."""
    pairs = [b / a for a, b in zip(fast, slow, strict=False)]
    return Row(work, name, median(slow) / median(fast), "times", (min(pairs), max(pairs)), None, note)


def in_turn(tasks: Sequence[Callable[[], object]], repeats: int) -> list[tuple[list[float], list[float]]]:
    """CPU and wall seconds of each task, the tasks taken in turn after one warm-up of each."""
    taken: list[tuple[list[float], list[float]]] = [([], []) for _ in tasks]
    for repeat in range(repeats + 1):
        for task, (cpu, wall) in zip(tasks, taken, strict=True):
            began, clock = time.process_time(), time.perf_counter()
            task()
            seconds = time.perf_counter() - clock
            if repeat:
                cpu.append(time.process_time() - began)
                wall.append(seconds)
    return taken
