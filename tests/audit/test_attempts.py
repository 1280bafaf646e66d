"""A ledger with valid links and a valid signature that says what cannot be: each lie is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.audit.verify import verify
from tests.audit.folders import Record, faults, forge, records


def with_reserve(**changes: Any) -> Callable[[list[Record]], list[Record]]:
    """Change the reservation of round 2, or take keys out of it."""

    def change(lines: list[Record]) -> list[Record]:
        lines[3] = {key: value for key, value in {**lines[3], **changes}.items() if value is not ...}
        return lines

    return change


def with_event(unit: str, **changes: str) -> Callable[[list[Record]], list[Record]]:
    def change(lines: list[Record]) -> list[Record]:
        lines[3]["events"][unit] |= changes
        return lines

    return change


def with_opening(**changes: Any) -> Callable[[list[Record]], list[Record]]:
    return lambda lines: [{**lines[0], **changes}, *lines[1:]]


def with_end(**changes: Any) -> Callable[[list[Record]], list[Record]]:
    return lambda lines: [*lines[:4], {**lines[4], **changes}, *lines[5:]]


LIES: dict[str, tuple[Callable[[list[Record]], list[Record]], str]] = {
    "another trust": (with_reserve(trust="local"), "mechanism: ledger.jsonl, line 4: trust is 'local'"),
    "a larger clip norm": (with_reserve(clip_norm="3.0"), "mechanism: ledger.jsonl, line 4: clip_norm is 3.0"),
    "a smaller sensitivity": (with_reserve(sensitivity="0.5"), "mechanism: ledger.jsonl, line 4: sensitivity is 0.5"),
    "a larger scale": (with_reserve(scale="9999.0"), "mechanism: ledger.jsonl, line 4: scale is 9999.0"),
    "a smaller minimum": (with_reserve(min_cohort=7), "mechanism: ledger.jsonl, line 4: min_cohort is 7"),
    "another cohort": (with_reserve(cohort=79), "mechanism: ledger.jsonl, line 4: cohort is 79"),
    "fewer colluders": (with_reserve(colluders=0), "mechanism: ledger.jsonl, line 4: colluders is 0"),
    "all collude": (with_reserve(colluders=70), "mechanism: ledger.jsonl, line 4: it declares no mechanism"),
    "more noise": (with_reserve(noise_multiplier="5.0"), "mechanism: ledger.jsonl, line 4: what it charges"),
    "more coordinates": (with_reserve(coordinates=301), "mechanism: ledger.jsonl, line 4: what it charges"),
    "more variance": (with_event("user", variance="1e+20"), "mechanism: ledger.jsonl, line 4: what it charges"),
    "less norm": (with_event("user", l2="1.0"), "mechanism: ledger.jsonl, line 4: what it charges"),
    "no norm": (with_event("user", l2="nan"), "mechanism: ledger.jsonl, line 4: A recorded event's 'l2' is 'nan'"),
    "no events": (with_reserve(events={}), "mechanism: ledger.jsonl, line 4: it declares events for []"),
    "no numbers": (with_reserve(clip_norm=...), "mechanism: ledger.jsonl, line 4: its 'clip_norm' is wrong"),
    "no round": (with_reserve(round="2"), "mechanism: ledger.jsonl, line 4: round '2', attempt 0 is no attempt"),
    "too dear": (
        with_reserve(
            events={"user": {"kind": "gaussian", "noise_multiplier": "0.001", "sampling_rate": "1.0", "steps": 1}}
        ),
        "epsilon: ledger.jsonl: what it charges is above epsilon 1000",
    ),
    "a smaller budget": (with_opening(epsilon="3.0"), "budget: ledger.jsonl, line 6: Round 3 would bring epsilon to"),
    "no budget": (with_opening(epsilon=None), "budget: ledger.jsonl, line 2 and 2 more: it charges a run whose"),
    "another delta": (with_opening(delta="0.001"), "opening: ledger.jsonl, line 1: delta is 0.001"),
    "another unit": (with_opening(unit="interaction"), "opening: ledger.jsonl, line 1: unit is 'interaction'"),
    "no unit": (with_opening(unit="household"), "mechanism: ledger.jsonl, line 2 and 2 more: it declares events for"),
    "better noise": (with_opening(noise="the best"), "opening: ledger.jsonl, line 1: noise is 'the best'"),
    "another run": (with_opening(run="x"), "opening: ledger.jsonl, line 1: run is 'x'"),
    "another version": (with_opening(version=1), "files: ledger.jsonl, line 1: it does not open a ledger of version 2"),
    "no promise": (lambda lines: lines[1:], "files: ledger.jsonl, line 1: it does not open a ledger of version 2"),
    "half a promise": (with_opening(delta="x"), "files: ledger.jsonl, line 1: its 'delta' is missing or wrong"),
    "two promises": (lambda lines: [lines[0], *lines], "attempts: ledger.jsonl, line 2: it is of type 'open'"),
    "an unknown line": (
        lambda lines: [*lines, {"type": "note"}],
        "attempts: ledger.jsonl, line 8: it is of type 'note'",
    ),
    "too few survivors": (with_end(survivors=69), "survivors: ledger.jsonl, line 5: a commit with 69 survivors"),
    "too many survivors": (with_end(survivors=81), "survivors: ledger.jsonl, line 5: a commit with 81 survivors"),
    "no survivors": (with_end(survivors=None), "survivors: ledger.jsonl, line 5: a commit with None survivors"),
    "a release that was none": (
        with_end(type="release"),
        "attempts: ledger.jsonl, line 6: round 3 begins, but round 2",
    ),
    "an end of nothing": (with_end(round=9), "attempts: ledger.jsonl, line 5: round 9, attempt 0 ends, but was not"),
    "an end of a list": (with_end(round=[]), "attempts: ledger.jsonl, line 5: round [], attempt 0 ends, but was not"),
    "two ends": (lambda lines: [*lines, lines[-1]], "attempts: ledger.jsonl, line 8: round 3, attempt 0 ends a second"),
    "no end": (lambda lines: lines[:-1], "attempts: ledger.jsonl: round 3, attempt 0 never ended"),
    "a second charge": (
        lambda lines: [*lines[:4], lines[3], *lines[4:]],
        "attempts: ledger.jsonl, line 5: round 2, attempt 0 is reserved a second time",
    ),
    "a round too few": (
        lambda lines: lines[:3] + lines[5:],
        "attempts: ledger.jsonl, line 4: round 3, attempt 0 does not follow round 1, attempt 0",
    ),
    "a round again": (
        lambda lines: [*lines[:5], *lines[1:3], *lines[5:]],
        "attempts: ledger.jsonl, line 6: round 1, attempt 0 is reserved a second time",
    ),
    "a late first attempt": (
        with_reserve(attempt=1),
        "attempts: ledger.jsonl, line 4: round 2, attempt 1 does not follow round 1, attempt 0",
    ),
    "one attempt too many": (
        lambda lines: [*lines, {**lines[-2], "attempt": 3}, {**lines[-1], "attempt": 3}],
        "attempts: ledger.jsonl, line 8: attempt 3 is one more than federation.attempts = 3",
    ),
    "another model": (
        lambda lines: [*lines[:-1], {**lines[-1], "model": "0" * 64}],
        "model: model.safetensors is not the model whose SHA-256 the last commit holds.",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_ledger_that_was_written_wrong_is_found(lie: str, copied: Path) -> None:
    change, said = LIES[lie]
    forge(copied, change(records(copied)))
    found = faults(copied)
    assert any(fault.startswith(said) for fault in found), found
    assert not any(fault.startswith(("chain", "checkpoint")) for fault in found)
    assert verify(copied).checks[-1].detail == "none: the record has faults"


def scrambled(value: Any) -> Iterator[Any]:
    """Other values of every kind that JSON has."""
    yield from (None, True, 0, -1, 2**53 - 1, "", "x", "1e999", [], [value], {}, {"a": value})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_a_line_says_verifying_ends_in_a_verdict(run: Path, scratch: Path, data: st.DataObject) -> None:
    changed = records(run)
    line = data.draw(st.integers(0, len(changed) - 1))
    place = changed[line]
    key = data.draw(st.sampled_from(sorted(set(place) - {"prev"})))
    while isinstance(place[key], dict) and data.draw(st.booleans()):
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(st.sampled_from(list(scrambled(place[key]))))
    if changed == records(run):
        return
    forge(scratch, changed)
    assert isinstance(verify(scratch).sound, bool)
