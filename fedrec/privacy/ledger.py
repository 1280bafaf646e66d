"""The ledger: an append-only, hash-chained record of declared events; the one place where a budget is refused.

One canonical JSON object a line (RFC 8785; decimals are strings), each with the SHA-256 of the line before it under
``prev``. The ledger records mechanism events and never just an epsilon, so anyone can recompute the budget.

- ``open``, first and once: ``version``, ``run`` (its id), ``unit``, ``adjacency``, ``trust``, ``delta``, ``epsilon``
  (the budget at that unit, null for none), ``noise`` (its source).
- ``reserve``: ``round``, ``attempt``, what is released, and ``events``: by unit, what it costs
  (`fedrec.privacy.events`). ``clients`` may hold the root of the cohort's pseudonyms (`fedrec.privacy.participants`).
- ``commit``, ``abort`` or ``release``: how an attempt ended, with its ``survivors``. A commit may carry the SHA-256 of
  what was published: ``sum``, ``model``. Only a released attempt is not charged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedrec.errors import LedgerError
from fedrec.faults import reach
from fedrec.privacy.accounting import filter_epsilon, report_epsilon
from fedrec.privacy.budget import Filter
from fedrec.privacy.events import Event, from_fields, to_fields
from fedrec.privacy.proofs import GENESIS, Record, canonical_json, plain, sign_checkpoint, verify_chain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

VERSION = 2

Outcome = Literal["commit", "abort", "release"]


@dataclass
class _Attempt:
    """A reserved attempt: its line's number from 0, what it costs by unit, and the line that ended it."""

    line: int
    events: Mapping[str, Event]
    ended: Record | None = None

    @property
    def charged(self) -> bool:
        return self.ended is None or self.ended["type"] != "release"


class Ledger:
    """The events of one run, in a file that one process writes.

    Guarantees:
        What `reserve` has returned for, outside of a `batch`, is on the disk and stays charged after a crash; inside of
        one, once `flush` has returned. A line that a crash cut short was not acknowledged, does not count and is
        written over. The budget holds for the opening's unit, also when a later event depends on earlier results.

    Args:
        path: the file; created with ``opening`` if absent, else read, verified and continued.
        opening: the first event, but for its type and version.

    Raises:
        LedgerError: if the file is damaged or belongs to another experiment.
    """

    def __init__(self, path: Path, opening: Mapping[str, Any]) -> None:
        self.path = path
        self.run, self.unit, self.delta = str(opening["run"]), str(opening["unit"]), float(opening["delta"])
        self.budget = None if opening["epsilon"] is None else float(opening["epsilon"])
        self._filter = Filter(self.budget, self.delta)
        self._attempts: dict[tuple[int, int], _Attempt] = {}
        self._last, self._head = (0, 0), GENESIS
        self._batching = self._failed = False
        self._pending: list[bytes] = []
        content = path.read_bytes() if path.exists() else b""
        self._lines: list[bytes] = []
        self._size, self._end = content.rfind(b"\n") + 1, len(content)
        first = {**opening, "type": "open", "version": VERSION}
        lines = content.split(b"\n")[:-1]
        for line, record in zip(lines, verify_chain(lines, path.name), strict=True):
            if not self._lines and _content(record) != first:
                raise LedgerError(f"'{path}' belongs to another experiment; choose another folder.")
            try:
                costs = record.get("events", {}).items()
                self._take(line, record, {unit: from_fields(fields) for unit, fields in costs})
            except (KeyError, TypeError, AttributeError) as error:
                where = f"{path.name}, line {len(self._lines) + 1}"
                raise LedgerError(f"{where}: not an event of a ledger of version {VERSION}.") from error
        if not self._lines:
            self._append(first)

    @property
    def lines(self) -> tuple[bytes, ...]:
        return tuple(self._lines)

    @property
    def size(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def reserve(self, round_: int, attempt: int, description: Mapping[str, Any], events: Mapping[str, Event]) -> None:
        """Charge an attempt before any client is asked. An attempt already reserved (a resumed run) is charged once.

        Args:
            round_: the round, from 1; never an earlier one than before.
            attempt: 0 for the first; each is a charge of its own.
            description: what is released: its name, noise_multiplier, clip_norm, cohort, min_cohort, trust …
            events: what it costs, by unit.

        Raises:
            BudgetExceededError: if the budget does not allow it; nothing is written then.
            LedgerError: if the attempt is on record with another mechanism, was released, or is out of order.
        """
        costs = {unit: to_fields(event) for unit, event in events.items()}
        record = {**plain(description), "type": "reserve", "round": round_, "attempt": attempt, "events": costs}
        where = f"'{self.path}': round {round_}, attempt {attempt}"
        known = self._find(round_, attempt)
        if known is not None:
            if _content(json.loads(self._lines[known.line])) != record:
                raise LedgerError(f"{where} stands with another mechanism.")
            if not known.charged:
                raise LedgerError(f"{where} was released and is never used again; take the next attempt.")
            return
        if self.unit not in events:
            raise LedgerError(f"{where} declares no event for unit '{self.unit}', which the budget is about.")
        if (round_, attempt) <= self._last:
            raise LedgerError(f"{where} comes after round {self._last[0]}, attempt {self._last[1]}; go on from there.")
        self._filter.check(events[self.unit], round_)
        self._append(record, dict(events))

    def close(
        self,
        round_: int,
        attempt: int,
        outcome: Outcome,
        survivors: int = 0,
        published: Mapping[str, str] | None = None,
    ) -> None:
        """Record how an attempt ended, once; a resumed run may say the same again.

        Args:
            round_: the round.
            attempt: of it, reserved before.
            outcome: ``commit``; ``abort``, which stays charged, since somebody may have sent a vector; or ``release``,
                which does not and is right only where no client can have sent its vector: the caller knows.
            survivors: users in the sum.
            published: SHA-256 in hex of what the server published: ``sum``, ``model``.

        Raises:
            LedgerError: if it was not reserved or ended in another way.
        """
        record = {**(published or {}), "type": outcome, "round": round_, "attempt": attempt, "survivors": survivors}
        known = self._find(round_, attempt)
        where = f"'{self.path}': round {round_}, attempt {attempt}"
        if known is None:
            raise LedgerError(f"{where} was never reserved, so it cannot end as '{outcome}'.")
        if known.ended is None:
            self._append(record)
        elif _content(known.ended) != record:
            raise LedgerError(f"{where} ended as '{known.ended['type']}' already, and not as '{outcome}' like this.")

    def outcome(self, round_: int, attempt: int) -> str | None:
        """How an attempt ended, ``open`` if it is reserved and nothing else is known, None if not even that."""
        known = self._find(round_, attempt)
        if known is None:
            return None
        return "open" if known.ended is None else str(known.ended["type"])

    def released(self, round_: int) -> int:
        """How many attempts at a round were released."""
        return sum(not one.charged for (known, _), one in self._attempts.items() if known == round_)

    def events(self, unit: str | None = None, until: tuple[int, int] | None = None) -> list[Event]:
        """What every charged attempt costs, in order.

        Args:
            unit: at which unit; the opening's by default.
            until: the last round and attempt to count; a resumed run may repeat what the ledger knows already.
        """
        known = self._attempts.items()
        return [one.events[unit or self.unit] for at, one in known if one.charged and (until is None or at <= until)]

    def spent(self, unit: str | None = None, until: tuple[int, int] | None = None) -> float:
        """Epsilon so far by the filter that decides refusals; see `events`."""
        return filter_epsilon(self.events(unit, until), self.delta)

    def epsilon(self, unit: str | None = None) -> float:
        """Epsilon so far by the accountant of reports."""
        return report_epsilon(self.events(unit), self.delta)

    def noise_multipliers(self) -> list[float]:
        """The declared noise multiplier of every charged attempt, in order."""
        charged = [json.loads(self._lines[one.line]) for one in self._attempts.values() if one.charged]
        return [float(record["noise_multiplier"]) for record in charged]

    def head(self) -> str:
        """The SHA-256 of the last line, in hex."""
        return self._head

    def checkpoint(self, key: Ed25519PrivateKey) -> str:
        """A signed statement of run, size, head and Merkle root, as canonical JSON; meant to be published elsewhere."""
        return sign_checkpoint(self._lines, self.run, key)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """One flush to the disk for every line inside. None of them is safe before it: ask no client earlier."""
        self._batching = True
        try:
            yield
        finally:
            self._batching = False
            if not self._failed:
                self.flush()

    def flush(self) -> None:
        """Write the lines that wait, and wait until they are on the disk.

        Raises:
            LedgerError: if that fails, or failed before.
        """
        self._check_written()
        if not self._pending:
            return
        content, self._failed = b"".join(self._pending), True
        self._pending.clear()
        try:
            with self.path.open("ab") as file:
                if file.tell() != self._end:
                    raise LedgerError(f"'{self.path}' was changed by another process; a run has one writer.")
                file.truncate(self._size)  # cuts a line that a crash left half-written
                reach("ledger.before-write")
                file.write(content)
                file.flush()
                reach("ledger.written")
                os.fsync(file.fileno())
                reach("ledger.synced")
            if self._end == 0:
                _sync_folder(self.path.parent)
        except OSError as error:
            reason = error.strerror or str(error)
            raise LedgerError(f"Cannot write '{self.path}': {reason}; free some space and try again.") from error
        self._size += len(content)
        self._end, self._failed = self._size, False

    def _find(self, round_: int, attempt: int) -> _Attempt | None:
        """An attempt on record."""
        self._check_written()
        return self._attempts.get((round_, attempt))

    def _check_written(self) -> None:
        """After a failed write the file is what counts, and this object knows more than it."""
        if self._failed:
            raise LedgerError(f"'{self.path}' could not be written before; open it anew.")

    def _append(self, record: Record, events: Mapping[str, Event] | None = None) -> None:
        """Write one line; unless in a batch, wait until it is on the disk: a charge must survive a crash."""
        line = canonical_json({**record, "prev": self._head})
        self._take(line, record, events or {})
        self._pending.append(line + b"\n")
        if not self._batching:
            self.flush()

    def _take(self, line: bytes, record: Record, events: Mapping[str, Event]) -> None:
        """Add a line that is written, or about to be, to what is known."""
        if record["type"] == "reserve":
            self._last = (record["round"], record["attempt"])
            self._attempts[self._last] = _Attempt(len(self._lines), events)
            self._filter.add(events[self.unit])
        elif record["type"] != "open":
            known = self._attempts[record["round"], record["attempt"]]
            known.ended = record
            if not known.charged:
                self._filter.remove(known.events[self.unit])
        self._lines.append(line)
        self._head = hashlib.sha256(line).hexdigest()


def _content(record: Record) -> dict[str, Any]:
    """A record without the hash that links it to the line before."""
    return {key: value for key, value in record.items() if key != "prev"}


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable; some file systems refuse to flush a folder, and then nothing can be done."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
