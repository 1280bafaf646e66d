"""What a run folder holds, read as far as it can be, so that one damaged file does not hide the faults of another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError

from fedrec.audit.attempts import Replay
from fedrec.audit.record import Opening
from fedrec.config import Experiment, load
from fedrec.errors import FedrecError, LedgerError
from fedrec.privacy.ledger import VERSION
from fedrec.privacy.proofs import Record, read_chain
from fedrec.reporting import folder as names
from fedrec.reporting.folder import RunFolder
from fedrec.reporting.report import RoundLine, read_rounds
from fedrec.reporting.summary import Summary, parse_summary


@dataclass
class Evidence:
    """A run folder; what is missing or cannot be read is None or empty, and the reason is among the faults.

    Attributes:
        folder: where.
        unfinished: whether it can be resumed, so that what a finished run leaves may be missing.
        lines: the ledger's whole lines; ``rest`` is what follows the last line end.
        records: its readable lines, by number.
        chain_faults: where it was damaged or edited.
        file_faults: what is missing, and what cannot be read.
        experiment, opening, summary, rounds: as their files say.
        replay: the ledger after its first line.
    """

    folder: RunFolder
    unfinished: bool
    lines: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    records: dict[int, Record] = field(default_factory=dict)
    chain_faults: list[str] = field(default_factory=list)
    file_faults: list[str] = field(default_factory=list)
    experiment: Experiment | None = None
    opening: Opening | None = None
    replay: Replay | None = None
    summary: Summary | None = None
    rounds: list[RoundLine] = field(default_factory=list)


T = TypeVar("T")


def read(folder: RunFolder) -> Evidence:
    """Read everything."""
    run = Evidence(folder, unfinished=folder.has(names.CHECKPOINT))
    run.experiment = _try(run, lambda: load(str(folder.root)))
    *run.lines, run.rest = (_try(run, lambda: folder.read_bytes(names.LEDGER)) or b"").split(b"\n")
    run.records, run.chain_faults = read_chain(run.lines, names.LEDGER)
    run.opening = _try(run, lambda: _first(run.records))
    if run.opening is not None:
        run.replay = Replay(run.opening, run.experiment)
        for number, record in run.records.items():
            if number > 1:
                run.replay.take(number, record)
    run.rounds = _try(run, lambda: read_rounds(folder)) or []
    if folder.has(names.SUMMARY) or not run.unfinished:
        run.summary = _try(run, lambda: parse_summary(folder.read_summary(), names.SUMMARY))
    if not run.unfinished:
        missing = [name for name in (names.ROUNDS, names.LEDGER_CHECKPOINT, names.MODEL) if not folder.has(name)]
        run.file_faults += [f"{name} is missing." for name in missing]
    return run


def _try(run: Evidence, read: Callable[[], T]) -> T | None:
    """What a file holds; where that cannot be read, the reason is a fault."""
    try:
        return read()
    except FedrecError as error:
        run.file_faults.append(str(error))
        return None


def _first(records: dict[int, Record]) -> Opening:
    first = records.get(1, {})
    if first.get("type") != "open" or first.get("version") != VERSION:
        raise LedgerError(f"{names.LEDGER}, line 1: it does not open a ledger of version {VERSION}.")
    try:
        return Opening.model_validate(first)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise LedgerError(f"{names.LEDGER}, line 1: its '{key}' is missing or wrong.") from error
