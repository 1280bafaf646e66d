"""Whatever ends a process or fills a disk, what the ledger has acknowledged is there, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.ledger import Ledger
from fedrec.privacy.proofs import verify_chain
from tests.privacy.records import EVENTS, MECHANISM, OPENING, filled


def test_a_last_line_cut_anywhere_does_not_count_and_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = filled(path, rounds=1)
    content = path.read_bytes()
    ends = [0, *(at + 1 for at in range(len(content)) if content[at : at + 1] == b"\n")]
    last = ends[-2]
    for size in (*range(0, last, 7), *range(last, len(content))):
        path.write_bytes(content[:size])
        reopened = Ledger(path, OPENING)
        complete = max(sum(end <= size for end in ends) - 1, 1)  # the opening is written at once
        assert reopened.lines == whole.lines[:complete]
        reopened.reserve(1, 0, MECHANISM, EVENTS)
        reopened.close(1, 0, "commit", 10)
        assert path.read_bytes() == content


def test_a_batch_writes_the_same_file_with_one_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = filled(tmp_path / "one.jsonl", rounds=20)
    other = Ledger(tmp_path / "other.jsonl", OPENING)
    flushes = 0
    fsync = os.fsync

    def counted(file: int) -> None:
        nonlocal flushes
        flushes += 1
        fsync(file)

    monkeypatch.setattr(os, "fsync", counted)
    with other.batch():
        for round_ in range(1, 21):
            other.reserve(round_, 0, MECHANISM, EVENTS)
            other.close(round_, 0, "commit", 10)
        assert flushes == 0
        assert len(Ledger(other.path, OPENING).lines) == 1  # nothing of it is safe yet
    assert flushes == 1
    assert other.path.read_bytes() == one.path.read_bytes()
    assert Ledger(other.path, OPENING).lines == other.lines


def test_what_a_batch_charged_before_it_failed_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)

    def charge() -> None:
        with ledger.batch():
            for round_ in range(1, 1000):
                ledger.reserve(round_, 0, MECHANISM, EVENTS)

    with pytest.raises(BudgetExceededError):
        charge()
    reopened = Ledger(ledger.path, OPENING)
    assert reopened.lines == ledger.lines
    assert filter_epsilon([EVENTS["user"]] * len(reopened.events()), 1e-5) <= 8.0
    assert filter_epsilon([EVENTS["user"]] * (len(reopened.events()) + 1), 1e-5) > 8.0


def test_a_second_writer_is_found_and_cuts_nothing(tmp_path: Path) -> None:
    one = filled(tmp_path / "ledger.jsonl", rounds=1)
    other = Ledger(one.path, OPENING)
    other.reserve(2, 0, MECHANISM, EVENTS)
    before = one.path.read_bytes()
    with pytest.raises(LedgerError, match="changed by another process"):
        one.reserve(2, 0, MECHANISM, EVENTS)
    assert one.path.read_bytes() == before


def test_a_failed_write_charges_nothing_and_is_never_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = filled(tmp_path / "ledger.jsonl", rounds=1)

    def full(file: int) -> None:  # noqa: ARG001 - as os.fsync
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LedgerError, match=r"Cannot write .* No space left on device"):
        ledger.reserve(2, 0, MECHANISM, EVENTS)
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="could not be written before; open it anew"):
        ledger.reserve(2, 0, MECHANISM, EVENTS)
    with pytest.raises(LedgerError, match="could not be written before; open it anew"):
        ledger.close(2, 0, "abort")
    reopened = Ledger(ledger.path, OPENING)
    reopened.reserve(2, 0, MECHANISM, EVENTS)
    assert reopened.outcome(2, 0) == "open"


Step = Literal["reserve", "commit", "abort", "release", "reopen"]
STEPS: tuple[Step, ...] = get_args(Step)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_a_reopened_ledger_knows_what_it_knew(tmp_path_factory: pytest.TempPathFactory, steps: list[Step]) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger, round_, open_ = Ledger(path, OPENING), 0, False
    charged = 0
    for step in steps:
        if step == "reopen":
            ledger = Ledger(path, OPENING)
        elif step == "reserve" and not open_:
            round_, open_, charged = round_ + 1, True, charged + 1
            ledger.reserve(round_, 0, MECHANISM, EVENTS)
        elif step != "reserve" and open_:
            ledger.close(round_, 0, step)
            open_, charged = False, charged - (step == "release")
        assert len(ledger.events()) == charged
        assert Ledger(path, OPENING).lines == ledger.lines


WRITER = """
import sys
from pathlib import Path
from fedrec.privacy.events import GaussianEvent
from fedrec.privacy.ledger import Ledger

opening = {"run": "r", "unit": "user", "delta": "1e-05", "epsilon": None, "pad": "x" * 20000}
ledger = Ledger(Path(sys.argv[1]), opening)
for round_ in range(1, 100_000):
    ledger.reserve(round_, 0, {"pad": "y" * 20_000}, {"user": GaussianEvent(4.0)})
    print(round_, flush=True)
"""


def test_a_process_killed_while_it_writes_loses_no_charge(tmp_path: Path) -> None:
    """What was acknowledged before SIGKILL is on record; at most the one line under way is there beside it."""
    path = tmp_path / "ledger.jsonl"
    opening = {"run": "r", "unit": "user", "delta": "1e-05", "epsilon": None, "pad": "x" * 20000}
    for times in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(5 * times)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        last = max(int(line) for line in acknowledged if line.endswith("\n"))
        ledger = Ledger(path, opening)
        assert last <= len(ledger.events()) <= last + 1
        ledger.reserve(100_000 + times, 0, {"release": "mf"}, EVENTS)
        verify_chain(path.read_bytes().split(b"\n")[:-1])
        path.unlink()
