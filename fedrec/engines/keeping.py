"""How a run's state reaches the disk, and what a crash repeats."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from fedrec.errors import FedrecError
from fedrec.federation import checkpoint
from fedrec.federation.round import Federation, State
from fedrec.privacy.ledger import Ledger
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder

APART_S = 1.0
"""Seconds between two checkpoints of a seeded simulation: flushing to the disk takes longer than a small round."""


@dataclass
class Keeper:
    """Puts a run's records and state on the disk: ledger, then rounds, then the state that comes from them.

    Guarantees:
        Where noise is secure, and on real devices, every line of the ledger, every round and every state is on the disk
        before the run goes on, and a crash repeats at most one round. A seeded simulation repeats a round to the same
        bits and shows nobody a model before it ends: there all three wait until `apart` seconds have passed, and a
        crash repeats the rounds since then.

    Attributes:
        apart: seconds, at least, between two states on the disk; 0 keeps each.
    """

    federation: Federation
    folder: RunFolder
    ledger: Ledger
    apart: float
    _saved: float
    _waiting: tuple[State, int] | None = None

    def record(self, line: Mapping[str, Any]) -> None:
        """Keep a round's line of ``rounds.jsonl``."""
        self.folder.append_round(line, sync=not self.apart)

    def keep(self, state: State, *, at_once: bool = False) -> None:
        """Keep the state that the ledger's lines so far lead to."""
        self._waiting = state, self.ledger.size
        if at_once or time.monotonic() >= self._saved + self.apart:
            self.save()

    def save(self) -> None:
        """Put the state that waits, if one does, on the disk."""
        if self._waiting is None:
            return
        self.ledger.flush()
        if self.apart:
            self.folder.sync_rounds()
        state, ledger_size = self._waiting
        self.folder.write_bytes(names.CHECKPOINT, checkpoint.dump(state, self.federation.experiment, ledger_size))
        self._waiting, self._saved = None, time.monotonic()


@contextmanager
def keeping(federation: Federation, folder: RunFolder, ledger: Ledger, *, real: bool) -> Iterator[Keeper]:
    """A run's `Keeper`; however the run is left but by a crash, its last state is on the disk.

    Args:
        federation: what is run.
        folder: of the run.
        ledger: of the run.
        real: whether the clients are real devices.
    """
    seeded = not real and federation.experiment.privacy.source == "seeded"
    keeper = Keeper(federation, folder, ledger, APART_S if seeded else 0.0, time.monotonic())
    with ledger.batch() if seeded else nullcontext():
        try:
            yield keeper
        except BaseException:
            with suppress(FedrecError):  # what ended the run is what is told
                keeper.save()
            raise
        keeper.save()
