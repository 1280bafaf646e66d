"""A device finds itself in a ledger that names nobody, and adds up what it was charged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import LedgerError
from fedrec.privacy.accounting import report_epsilon
from fedrec.privacy.events import Event, SkellamEvent
from fedrec.privacy.keys import pseudonym
from fedrec.privacy.ledger import Ledger
from fedrec.privacy.participants import Seat, client_view, cohort_root, is_member, seats

RUN = "r"
NAMES = [pseudonym(n.to_bytes(16), RUN) for n in range(12)]
EVENTS: dict[str, Event] = {"user": SkellamEvent(1e8, 2e3, 4e4), "interaction": SkellamEvent(1e8, 1e3, 2e4)}


@given(st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES))
def test_a_client_is_shown_that_it_is_in_a_cohort_or_that_it_is_not(cohort: set[str], own: str) -> None:
    shown = seats(cohort, own)
    assert is_member(own, shown, len(cohort), cohort_root(cohort)) == (own in cohort)
    assert len(shown) <= 2


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.sampled_from(NAMES), st.data())
def test_nobody_is_talked_out_of_a_cohort_or_into_one(cohort: set[str], own: str, data: st.DataObject) -> None:
    """Whatever honest seats are chosen, and however one is bent, the answer is the truth or a refusal."""
    root = cohort_root(cohort)
    everyone = [seat for name in sorted(cohort) for seat in seats(cohort, name)]
    shown = data.draw(st.lists(st.sampled_from(everyone), max_size=3))
    bend: bool = data.draw(st.booleans())
    if shown and bend:
        seat = shown[-1]
        bent = [
            replace(seat, pseudonym=own),
            replace(seat, index=data.draw(st.integers(0, 12))),
            replace(seat, proof=seat.proof[:-1]),
        ]
        shown[-1] = data.draw(st.sampled_from(bent))
    try:
        answer = is_member(own, shown, len(cohort), root)
    except LedgerError:
        return
    assert answer == (own in cohort)


def test_the_same_pseudonym_twice_is_refused() -> None:
    with pytest.raises(LedgerError, match="twice"):
        cohort_root([NAMES[0], NAMES[0]])


def test_a_root_does_not_depend_on_the_order_of_clients() -> None:
    assert cohort_root(NAMES) == cohort_root(NAMES[::-1])


COHORTS = {(1, 0): NAMES[:8], (2, 0): NAMES[4:], (3, 0): NAMES[:4], (3, 1): NAMES[:6]}


def ledger_of(path: Path) -> Ledger:
    opening = {"run": RUN, "unit": "user", "delta": "1e-05", "epsilon": "8.0"}
    ledger = Ledger(path, opening)
    for (round_, attempt), cohort in COHORTS.items():
        described = {"cohort": len(cohort), "clients": cohort_root(cohort)}
        ledger.reserve(round_, attempt, described, EVENTS)
        ledger.close(round_, attempt, "release" if (round_, attempt) == (3, 0) else "commit", 4)
    ledger.reserve(4, 0, {"cohort": 12}, EVENTS)  # who is in it is not on record
    return ledger


@pytest.mark.parametrize("client", range(12))
def test_a_client_adds_up_what_it_was_charged(client: int, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "ledger.jsonl")
    own = pseudonym(client.to_bytes(16), RUN)
    proofs = {key: seats(cohort, own) for key, cohort in COHORTS.items()}
    view = client_view(ledger.lines, own, proofs)
    expected = [key for key, cohort in COHORTS.items() if own in cohort]
    assert [(one.round, one.attempt) for one in view.taken] == [*expected, (4, 0)]
    assert [one.proved for one in view.taken] == [True] * len(expected) + [False]
    assert view.taken[-1].outcome == "open"
    paid = len([key for key in expected if key != (3, 0)]) + 1
    for unit, event in EVENTS.items():
        assert view.epsilon(unit) == report_epsilon([event] * paid, 1e-5)


def test_without_proofs_every_attempt_counts(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "ledger.jsonl")
    view = client_view(ledger.lines, NAMES[0], {})
    assert len(view.taken) == 5
    assert not any(one.proved for one in view.taken)
    assert view.epsilon("user") == ledger.epsilon("user")


def test_a_proof_of_another_cohort_is_refused(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "ledger.jsonl")
    with pytest.raises(LedgerError, match="does not show line"):
        client_view(ledger.lines, NAMES[0], {(1, 0): seats(COHORTS[2, 0], NAMES[0])})
    with pytest.raises(LedgerError, match="proves neither"):
        client_view(ledger.lines, NAMES[0], {(1, 0): []})
    with pytest.raises(LedgerError):
        client_view(ledger.lines, NAMES[0], {(1, 0): [Seat(NAMES[0], 0, ())]})


def test_an_edited_ledger_is_refused(tmp_path: Path) -> None:
    lines = list(ledger_of(tmp_path / "ledger.jsonl").lines)
    lines[1] = lines[1].replace(b'"cohort":8', b'"cohort":9')
    with pytest.raises(LedgerError, match="line 3: does not follow"):
        client_view(lines, NAMES[0], {})
