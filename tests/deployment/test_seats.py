"""Seats read off trees that are kept: the same as `fedrec.privacy.participants` gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.deployment.published import Published
from fedrec.deployment.seats import Cohort, read_cohorts
from fedrec.errors import ServerError
from fedrec.privacy.participants import cohort_root, is_member, seats
from tests.deployment.world import World, world

NAMES = st.text("0123456789abcdef", min_size=4, max_size=8)


@given(st.sets(NAMES, min_size=1, max_size=40), NAMES)
def test_seats_are_those_of_participants_and_prove_the_truth(names: set[str], stranger: str) -> None:
    cohort = Cohort(names)
    for name in [*names, stranger]:
        shown = [
            {"pseudonym": seat.pseudonym, "index": seat.index, "proof": [step.hex() for step in seat.proof]}
            for seat in seats(names, name)
        ]
        assert cohort.seats(name) == shown
        assert is_member(name, seats(names, name), len(names), cohort_root(names)) == (name in names)


def line(round_: int, attempt: int, *numbers: int) -> bytes:
    return json.dumps({"round": round_, "attempt": attempt, "numbers": numbers}).encode() + b"\n"


def test_the_last_line_of_an_attempt_counts_and_one_without_end_does_not() -> None:
    content = line(1, 0, 1, 2) + line(1, 0, 1, 3) + line(1, 1, 2, 3) + line(1, 1, 1, 2)[:-1]
    assert read_cohorts(content, "cohorts.jsonl") == {(1, 0): (1, 3), (1, 1): (2, 3)}


@pytest.mark.parametrize("damage", [b"x\n", b"{}\n", b"[]\n", b'{"round": 1, "attempt": 0, "numbers": 3}\n'])
def test_a_damaged_line_is_named(damage: bytes) -> None:
    with pytest.raises(ServerError, match="line 2 is damaged"):
        read_cohorts(line(1, 0, 1) + damage, "cohorts.jsonl")


def test_a_cohort_that_changes_or_comes_later_is_shown_at_once(tmp_path: Path) -> None:
    with world(tmp_path / "world") as here:
        _enrol(here, tmp_path, 3)
        published, (one, *_) = Published(here.home, here.registry), here.registry.devices()
        assert _places(published, one.number) == []
        here.write_cohorts((1, 2), (2, 3))
        assert _places(published, one.number) == [True, False]
        here.write_cohorts((2, 3), (1, 3), (1, 2))
        assert _places(published, one.number) == [False, True, True]


def _enrol(here: World, folder: Path, n: int) -> None:
    for number in range(n):
        here.enrolled(folder / f"d{number}")


def _places(published: Published, number: int) -> list[bool]:
    """Of each attempt, whether the device is shown a seat of its own."""
    device = next(one for one in published._registry.devices() if one.number == number)
    found = published.document("seats", device)
    assert found is not None
    published_name = published._name(number)
    return [
        any(seat["pseudonym"] == published_name for seat in one["seats"])
        for one in json.loads(found.content)["attempts"]
    ]
