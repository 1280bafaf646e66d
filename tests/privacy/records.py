"""A small ledger, for tests."""

from __future__ import annotations

from pathlib import Path

from fedrec.privacy.events import Event, GaussianEvent
from fedrec.privacy.ledger import Ledger

OPENING = {"run": "r", "unit": "user", "delta": "1e-05", "epsilon": "8.0", "note": "ünïcode"}
MECHANISM = {"release": "mf", "noise_multiplier": 4.0, "clip_norm": 1.0, "cohort": 10}
EVENTS: dict[str, Event] = {"user": GaussianEvent(4.0), "interaction": GaussianEvent(2.0)}


def filled(path: Path, rounds: int = 3) -> Ledger:
    ledger = Ledger(path, OPENING)
    for round_ in range(1, rounds + 1):
        ledger.reserve(round_, 0, MECHANISM, EVENTS)
        ledger.close(round_, 0, "commit", 10)
    return ledger
