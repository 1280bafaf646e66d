"""The ledger: no charge is forgotten, no edit goes unseen, no round is charged beyond the budget."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import BudgetExceededError, LedgerError
from fedrec.privacy.accounting import calibrate, composed_mu, gaussian_epsilon, pld_epsilon
from fedrec.privacy.ledger import (
    GENESIS,
    Ledger,
    canonical_json,
    merkle_root,
    verify_chain,
    verify_checkpoint,
)

OPENING = {"experiment": "e", "unit": "user", "delta": "1e-05", "epsilon": "8.0", "note": "ünïcode"}
MECHANISM = {"release": "mf", "noise_multiplier": 4.0, "clip_norm": 1.0, "cohort": 10}


def filled(path: Path, rounds: int = 3) -> Ledger:
    ledger = Ledger(path, OPENING)
    for round_ in range(1, rounds + 1):
        ledger.reserve(round_, 0, MECHANISM)
        ledger.close(round_, 0, "commit", 10)
    return ledger


def test_every_line_carries_the_hash_of_the_line_before(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    lines = (tmp_path / "ledger.jsonl").read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert tuple(lines) == ledger.lines
    assert len(lines) == 7
    for line, before in zip(lines, [None, *lines], strict=False):
        event = json.loads(line)
        assert event["prev"] == (GENESIS if before is None else hashlib.sha256(before).hexdigest())
        assert line == json.dumps(event, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        assert not any(isinstance(value, float) for value in event.values())  # decimals are strings
    assert ledger.head() == hashlib.sha256(lines[-1]).hexdigest()
    assert [event["type"] for event in verify_chain(lines)] == ["open", *["reserve", "commit"] * 3]


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
        b"[" * 100_000,
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


def test_another_experiments_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    filled(path)
    before = path.read_bytes()
    for other in ({**OPENING, "epsilon": "80.0"}, {**OPENING, "more": 1}, {**OPENING, "experiment": "f"}):
        with pytest.raises(LedgerError, match="another experiment"):
            Ledger(path, other)
    assert path.read_bytes() == before


def test_a_last_line_cut_anywhere_does_not_count_and_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    whole = filled(path, rounds=1)
    content = path.read_bytes()
    ends = [0, *(at + 1 for at in range(len(content)) if content[at : at + 1] == b"\n")]
    for size in range(len(content)):
        path.write_bytes(content[:size])
        reopened = Ledger(path, OPENING)
        complete = max(sum(end <= size for end in ends) - 1, 1)  # the opening is written at once
        assert reopened.lines == whole.lines[:complete]
        reopened.reserve(1, 0, MECHANISM)
        reopened.close(1, 0, "commit", 10)
        assert path.read_bytes() == content


def test_an_attempt_is_charged_once_and_a_retry_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, OPENING)
    ledger.reserve(1, 0, MECHANISM)
    before = path.read_bytes()
    ledger.reserve(1, 0, MECHANISM)
    Ledger(path, OPENING).reserve(1, 0, MECHANISM)
    assert path.read_bytes() == before
    ledger.close(1, 0, "abort", 2)
    ledger.reserve(1, 1, MECHANISM)
    ledger.reserve(2, 0, {**MECHANISM, "noise_multiplier": 8.0})
    assert ledger.noise_multipliers() == [4.0, 4.0, 8.0]


def test_an_attempt_does_not_change_its_mechanism(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl", OPENING)
    ledger.reserve(1, 0, MECHANISM)
    for other in ({**MECHANISM, "noise_multiplier": 4.1}, {**MECHANISM, "cohort": 11}, {**MECHANISM, "x": 1}):
        with pytest.raises(LedgerError, match="round 1, attempt 0 stands with another mechanism"):
            ledger.reserve(1, 0, other)
    assert len(ledger.lines) == 2


def test_how_an_attempt_ended_is_written_once(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl", rounds=1)
    ledger.close(1, 0, "commit", 10)
    Ledger(tmp_path / "ledger.jsonl", OPENING).close(1, 0, "commit", 10)
    assert len(Ledger(tmp_path / "ledger.jsonl", OPENING).lines) == 3


def test_the_budget_refuses_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, {**OPENING, "epsilon": "2.0"})
    sigma = calibrate(2.0, 1e-5, [0.5, 0.5])[0]
    for round_ in (1, 2):  # exactly what was planned is allowed
        ledger.reserve(round_, 0, {**MECHANISM, "noise_multiplier": sigma})
    before = path.read_bytes()
    with pytest.raises(BudgetExceededError, match=r"Round 3 .* above the budget 2 .*privacy\.epsilon") as refusal:
        ledger.reserve(3, 0, {**MECHANISM, "noise_multiplier": sigma})
    assert refusal.value.exit_code == 3
    with pytest.raises(BudgetExceededError):
        ledger.reserve(1, 1, {**MECHANISM, "noise_multiplier": sigma})  # a retry costs like a round
    assert path.read_bytes() == before
    assert ledger.noise_multipliers() == [sigma, sigma]


def test_epsilon_is_that_of_the_recorded_events(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    assert ledger.epsilon() == pld_epsilon([4.0] * 3, 1e-5)
    assert ledger.spent() == gaussian_epsilon(composed_mu([4.0] * 3), 1e-5)


def tree_hash(lines: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, as written there."""
    n = len(lines)
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + lines[0]).digest()
    k = 1
    while 2 * k < n:
        k *= 2
    return hashlib.sha256(b"\x01" + tree_hash(lines[:k]) + tree_hash(lines[k:])).digest()


@given(st.lists(st.binary(max_size=3), max_size=40))
def test_merkle_root_is_the_rfcs(lines: list[bytes]) -> None:
    assert merkle_root(lines) == tree_hash(lines)


def signed(body: dict[str, Any], key: Ed25519PrivateKey) -> str:
    """A checkpoint of any content with a valid signature."""
    import base64

    parts = {"key": key.public_key().public_bytes_raw(), "signature": key.sign(canonical_json(body))}
    return json.dumps({**body, **{name: base64.b64encode(part).decode() for name, part in parts.items()}})


def test_a_checkpoint_holds_for_its_ledger_and_for_a_longer_one(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    checkpoint = ledger.checkpoint(Ed25519PrivateKey.generate())
    verify_checkpoint(checkpoint, ledger.lines)
    ledger.reserve(4, 0, MECHANISM)
    verify_checkpoint(checkpoint, ledger.lines)


def test_a_checkpoint_refuses_a_shorter_or_another_ledger(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    checkpoint = ledger.checkpoint(Ed25519PrivateKey.generate())
    for lines in ((), ledger.lines[:-1], (*ledger.lines[:-1], b"{}"), ledger.lines[::-1]):
        with pytest.raises(LedgerError, match="does not hold the 7 lines"):
            verify_checkpoint(checkpoint, lines)


def test_every_edit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "ledger.jsonl")
    values = json.loads(ledger.checkpoint(Ed25519PrivateKey.generate()))
    other = json.loads(ledger.checkpoint(Ed25519PrivateKey.generate()))
    edits = {"head": GENESIS, "root": GENESIS, "size": 6, "version": 2, **{k: other[k] for k in ("key", "signature")}}
    assert set(edits) == set(values)
    for name, value in edits.items():
        without = {key: old for key, old in values.items() if key != name}
        for edited in ({**values, name: value}, {**values, name: None}, without):
            with pytest.raises(LedgerError, match="signature is not valid"):
                verify_checkpoint(json.dumps(edited), ledger.lines)
    for text in ("", "[]", "7", '"x"', "null"):
        with pytest.raises(LedgerError, match="signature is not valid"):
            verify_checkpoint(text, ledger.lines)


@pytest.mark.parametrize("wrong", [{"head": GENESIS}, {"size": -1}, {"size": "7"}, {"size": None}, {"root": 1}])
def test_a_signature_does_not_make_a_wrong_statement_right(wrong: dict[str, Any], tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    ledger = filled(tmp_path / "ledger.jsonl")
    right = {"head": ledger.head(), "root": merkle_root(ledger.lines).hex(), "size": len(ledger.lines), "version": 1}
    verify_checkpoint(signed(right, key), ledger.lines)
    with pytest.raises(LedgerError):
        verify_checkpoint(signed({**right, **wrong}, key), ledger.lines)


WRITER = """
import sys
from pathlib import Path
from fedrec.privacy.ledger import Ledger

ledger = Ledger(Path(sys.argv[1]), {"delta": "1e-05", "epsilon": None, "pad": "x" * 20000})
for round_ in range(1, 100_000):
    ledger.reserve(round_, 0, {"noise_multiplier": 4.0, "pad": "y" * 20_000})
    print(round_, flush=True)
"""


def test_a_process_killed_while_it_writes_loses_no_charge(tmp_path: Path) -> None:
    """What was acknowledged before SIGKILL is on record; at most the one line under way is there beside it."""
    path = tmp_path / "ledger.jsonl"
    for times in range(1, 4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(5 * times)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        last = max(int(line) for line in acknowledged if line.endswith("\n"))
        ledger = Ledger(path, {"delta": "1e-05", "epsilon": None, "pad": "x" * 20000})
        assert last <= len(ledger.noise_multipliers()) <= last + 1
        ledger.reserve(100_000 + times, 0, {"noise_multiplier": 4.0})
        verify_chain(path.read_bytes().split(b"\n")[:-1])
        path.unlink()
