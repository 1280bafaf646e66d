"""The ledger: no charge is forgotten, no edit goes unseen, no round is charged beyond the budget."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting import filter_epsilon, report_epsilon
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent, to_fields
from fedrec.privacy.ledger import Ledger, Outcome
from fedrec.privacy.proofs import GENESIS, verify_chain, verify_checkpoint
from tests.cases import calibrated
from tests.privacy.records import EVENTS, MECHANISM, OPENING, filled


def test_every_line_carries_the_hash_of_the_line_before(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert tuple(lines) == ledger.lines
    assert len(lines) == 7
    for line, before in zip(lines, [None, *lines], strict=False):
        record = json.loads(line)
        assert record["prev"] == (GENESIS if before is None else hashlib.sha256(before).hexdigest())
        assert line == json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert not any(isinstance(value, float) for value in record.values())  # decimals are strings
    assert ledger.head() == hashlib.sha256(lines[-1]).hexdigest()
    records = verify_chain(lines)
    assert [record["type"] for record in records] == ["open", *["reserve", "commit"] * 3]
    assert records[0] == {**OPENING, "type": "open", "version": 2, "prev": GENESIS}
    assert records[1]["events"] == {unit: to_fields(event) for unit, event in EVENTS.items()}


def complaint(lines: Sequence[bytes]) -> str:
    """What is wrong with a chain of the name L; empty if nothing is."""
    try:
        verify_chain(lines, "L")
    except LedgerError as error:
        return str(error)
    return ""


def test_any_other_byte_anywhere_is_found(tmp_path: Path) -> None:
    """By the chain, which names the line or the one after it; in the last line by the signed checkpoint."""
    ledger = filled(tmp_path / "ledger.jsonl", rounds=1)
    checkpoint = ledger.checkpoint(Ed25519PrivateKey.generate())
    content = (tmp_path / "ledger.jsonl").read_bytes()
    verify_checkpoint(checkpoint, content.split(b"\n")[:-1])
    for at in range(len(content)):
        number = content[:at].count(b"\n") + 1
        for flip in (1, 2, 4, 8, 16, 32, 64, 128):
            damaged = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            lines = damaged.split(b"\n")[:-1]
            found = complaint(lines)
            if not found:
                assert number == len(ledger.lines)
                with pytest.raises(LedgerError):
                    verify_checkpoint(checkpoint, lines)
            else:
                assert f"L, line {number}:" in found or f"L, line {number + 1}:" in found


def test_dropped_reordered_and_inserted_lines_are_named(tmp_path: Path) -> None:
    lines = list(filled(tmp_path / "ledger.jsonl").lines)
    for at in range(1, len(lines)):
        edits = {
            at: lines[: at - 1] + lines[at:],  # without line `at`, counted from 1
            at + 1: [*lines[:at], lines[0], *lines[at:]],
        }
        if at > 1:
            edits[at] = [*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]]
        for number, edited in edits.items():
            with pytest.raises(LedgerError, match=f"line {number}: does not follow"):
                verify_chain(edited)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"\xff\xfe",
        b'{"prev":NaN}',
        b'{"prev":1e999}',
        b'{"prev":"\\ud800"}',
        b'{"prev": "x"}',
        b'{"prev":"' + GENESIS.encode() + b'","a":1}',
        b'{"a":1.5}',
        b"[" * 100_000,
        b'{"a":' * 900 + b"0" + b"}" * 900,
        b"9" * 5000,
    ],
)
def test_whatever_a_line_holds_it_is_named_and_never_a_traceback(line: bytes, tmp_path: Path) -> None:
    lines = [*filled(tmp_path / "ledger.jsonl", rounds=1).lines, line]
    with pytest.raises(LedgerError, match="line 4: "):
        verify_chain(lines)


def test_a_damaged_ledger_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    path.write_bytes(path.read_bytes().replace(b'"4.0"', b'"9.0"', 1))
    with pytest.raises(LedgerError, match="line 3"):
        Ledger(path, OPENING)


def chained(*records: dict[str, Any]) -> bytes:
    """A file of any records in a valid chain."""
    content, prev = b"", GENESIS
    for record in records:
        line = json.dumps({**record, "prev": prev}, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        content, prev = content + line + b"\n", hashlib.sha256(line).hexdigest()
    return content


RESERVE: dict[str, Any] = {"type": "reserve", "round": 1, "attempt": 0, "events": {"user": to_fields(EVENTS["user"])}}


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": "commit", "round": 1, "attempt": 0},
        {"type": "reserve", "round": 1},
        {**RESERVE, "events": {}},
        {**RESERVE, "events": []},
        {**RESERVE, "events": {"user": {"kind": "laplace"}}},
        {**RESERVE, "events": {"user": {**to_fields(EVENTS["user"]), "noise_multiplier": "4"}}},
    ],
)
def test_what_is_no_event_is_refused_however_well_it_is_chained(record: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(chained({**OPENING, "type": "open", "version": 2}, record))
    with pytest.raises(LedgerError):
        Ledger(path, OPENING)


def test_another_experiments_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    before = path.read_bytes()
    for other in ({**OPENING, "epsilon": "80.0"}, {**OPENING, "more": 1}, {**OPENING, "run": "s"}):
        with pytest.raises(LedgerError, match="another experiment"):
            Ledger(path, other)
    assert path.read_bytes() == before


# Attempts


def test_an_attempt_is_charged_once_and_a_retry_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, OPENING)
    ledger.reserve(1, 0, MECHANISM, EVENTS)
    before = path.read_bytes()
    ledger.reserve(1, 0, MECHANISM, EVENTS)
    Ledger(path, OPENING).reserve(1, 0, MECHANISM, EVENTS)
    assert path.read_bytes() == before
    ledger.close(1, 0, "abort", 2)
    ledger.reserve(1, 1, MECHANISM, EVENTS)
    ledger.reserve(2, 0, {**MECHANISM, "noise_multiplier": 8.0}, {"user": GaussianEvent(8.0)})
    assert ledger.events() == [GaussianEvent(4.0), GaussianEvent(4.0), GaussianEvent(8.0)]
    assert ledger.noise_multipliers() == [4.0, 4.0, 8.0]
    assert [ledger.outcome(*key) for key in ((1, 0), (1, 1), (2, 0), (2, 1))] == ["abort", "open", "open", None]


def test_an_attempt_does_not_change_its_mechanism(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    ledger.reserve(1, 0, MECHANISM, EVENTS)
    others: list[tuple[dict[str, Any], dict[str, Event]]] = [
        ({**MECHANISM, "noise_multiplier": 4.1}, EVENTS),
        ({**MECHANISM, "cohort": 11}, EVENTS),
        ({**MECHANISM, "x": 1}, EVENTS),
        (MECHANISM, {**EVENTS, "user": GaussianEvent(4.1)}),
        (MECHANISM, {"user": GaussianEvent(4.0)}),
    ]
    for description, events in others:
        with pytest.raises(LedgerError, match="round 1, attempt 0 stands with another mechanism"):
            ledger.reserve(1, 0, description, events)
    assert len(ledger.lines) == 2


def test_attempts_go_forward_only(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    ledger.reserve(2, 1, MECHANISM, EVENTS)
    for earlier in ((1, 0), (1, 5), (2, 0)):
        with pytest.raises(LedgerError, match="comes after round 2, attempt 1"):
            ledger.reserve(*earlier, MECHANISM, EVENTS)
    reopened = Ledger(tmp_path / "ledger.jsonl", OPENING)
    with pytest.raises(LedgerError, match="comes after round 2, attempt 1"):
        reopened.reserve(2, 0, MECHANISM, EVENTS)


def test_an_attempt_is_charged_at_the_unit_of_the_budget(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    with pytest.raises(LedgerError, match="declares no event for unit 'user'"):
        ledger.reserve(1, 0, MECHANISM, {"interaction": GaussianEvent(4.0)})


def test_how_an_attempt_ended_is_written_once(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl", rounds=1)
    ledger.close(1, 0, "commit", 10)
    Ledger(tmp_path / "ledger.jsonl", OPENING).close(1, 0, "commit", 10)
    assert len(Ledger(tmp_path / "ledger.jsonl", OPENING).lines) == 3
    others: list[tuple[Outcome, int]] = [("abort", 10), ("commit", 9), ("release", 0)]
    for outcome, survivors in others:
        with pytest.raises(LedgerError, match="ended as 'commit' already"):
            ledger.close(1, 0, outcome, survivors)
    with pytest.raises(LedgerError, match="was never reserved"):
        ledger.close(2, 0, "abort")


def test_a_released_attempt_costs_nothing_and_is_never_used_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = filled(path, rounds=1)
    spent = ledger.spent()
    ledger.reserve(2, 0, MECHANISM, EVENTS)
    assert ledger.spent() > spent
    ledger.close(2, 0, "release")
    assert (ledger.spent(), ledger.events()) == (spent, [GaussianEvent(4.0)])
    for one in (ledger, Ledger(path, OPENING)):
        assert one.outcome(2, 0) == "release"
        assert one.spent() == spent
        with pytest.raises(LedgerError, match="was released and is never used again"):
            one.reserve(2, 0, MECHANISM, EVENTS)
    ledger.reserve(2, 1, MECHANISM, EVENTS)


def test_a_release_makes_room_in_the_budget(tmp_path: Path) -> None:
    sigma = calibrated(2.0, [1.0])[0]
    events = {"user": GaussianEvent(sigma)}
    ledger = Ledger(tmp_path / "ledger.jsonl", {**OPENING, "epsilon": "2.0"})
    ledger.reserve(1, 0, MECHANISM, events)
    with pytest.raises(BudgetExceededError):
        ledger.reserve(1, 1, MECHANISM, events)
    ledger.close(1, 0, "release")
    ledger.reserve(1, 1, MECHANISM, events)
    for one in (ledger, Ledger(ledger.path, {**OPENING, "epsilon": "2.0"})):
        with pytest.raises(BudgetExceededError):
            one.reserve(1, 2, MECHANISM, events)


def test_a_commit_holds_what_was_published(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    ledger.reserve(1, 0, {**MECHANISM, "clients": "c" * 64}, EVENTS)
    ledger.close(1, 0, "commit", 10, {"sum": "a" * 64, "model": "b" * 64})
    reserve, commit = verify_chain(ledger.lines)[1:]
    assert reserve["clients"] == "c" * 64
    assert (commit["sum"], commit["model"], commit["survivors"]) == ("a" * 64, "b" * 64, 10)


# The budget


def test_the_budget_refuses_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, {**OPENING, "epsilon": "2.0"})
    events = {"user": GaussianEvent(calibrated(2.0, [0.5, 0.5])[0])}
    for round_ in (1, 2):  # exactly what was planned is allowed
        ledger.reserve(round_, 0, MECHANISM, events)
    before = path.read_bytes()
    with pytest.raises(BudgetExceededError, match=r"Round 3 .* above the budget 2 .*privacy\.epsilon") as refusal:
        ledger.reserve(3, 0, MECHANISM, events)
    assert refusal.value.exit_code == 3
    with pytest.raises(BudgetExceededError):
        ledger.reserve(2, 1, MECHANISM, events)  # a retry costs like a round
    assert path.read_bytes() == before
    assert len(ledger.events()) == 2


def test_epsilon_is_that_of_the_recorded_events_at_each_unit(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    for one in (ledger, Ledger(ledger.path, OPENING)):
        for unit, event in EVENTS.items():
            assert one.epsilon(unit) == report_epsilon([event] * 3, 1e-5)
            assert one.spent(unit) == filter_epsilon([event] * 3, 1e-5)
        assert (one.epsilon(), one.spent()) == (one.epsilon("user"), one.spent("user"))


def test_integer_noise_is_recorded_and_priced_as_such(tmp_path: Path) -> None:
    event = SkellamEvent(variance=1e8 / 3, l2=2000.1, l1=40_000.0, distance=1e-30)
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    ledger.reserve(1, 0, MECHANISM, {"user": event})
    assert Ledger(ledger.path, OPENING).events() == [event]
    assert ledger.spent() == filter_epsilon([event], 1e-5)


def test_what_was_spent_until_an_attempt_is_known_when_later_ones_are_on_record(tmp_path: Path) -> None:
    ledger, spent = filled(tmp_path / "ledger.jsonl", rounds=1), []
    for round_, attempt in ((2, 0), (2, 1), (3, 0)):
        ledger.reserve(round_, attempt, MECHANISM, EVENTS)
        spent.append(ledger.spent())
    assert [ledger.spent(until=at) for at in ((2, 0), (2, 1), (3, 0))] == spent
    assert ledger.spent(until=(1, 0)) < spent[0] < spent[1] < spent[2]
