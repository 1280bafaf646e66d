"""The filter refuses exactly what costs more than the budget, and asks the accountant seldom."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import BudgetExceededError
from fedrec.privacy import budget
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.budget import Filter, check_budget
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent

KINDS: list[Event] = [
    GaussianEvent(3.0),
    GaussianEvent(9.0),
    SkellamEvent(4e8, 4000.0, 1e5),
    SkellamEvent(9e9, 4e3, 1e5),
]


def admits(filter_: Filter, event: Event) -> bool:
    try:
        filter_.check(event, 1)
    except BudgetExceededError:
        return False
    filter_.add(event)
    return True


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(["charge", "charge", "loaded", "release"])), max_size=40
    ),
    st.floats(0.5, 6.0),
)
def test_it_decides_as_if_it_priced_every_event(steps: list[tuple[Event, str]], epsilon: float) -> None:
    filter_, charged = Filter(epsilon, 1e-5), list[Event]()
    for event, what in steps:
        if what == "release":
            if event in charged:
                charged.remove(event)
                filter_.remove(event)
        elif what == "loaded":  # charged by an earlier process; it was checked there
            charged.append(event)
            filter_.add(event)
        else:
            fits = filter_epsilon([*charged, event], 1e-5) <= epsilon * (1 + 1e-9)
            assert admits(filter_, event) == fits
            if fits:
                charged.append(event)


@pytest.mark.parametrize("events", [KINDS[1:2], KINDS[3:4], KINDS], ids=["gaussian", "skellam", "mixed"])
def test_thousands_of_events_take_some_dozen_evaluations(events: list[Event], monkeypatch: pytest.MonkeyPatch) -> None:
    limit = filter_epsilon(events * (4000 // len(events)), 1e-5)
    evaluations = 0

    def counted(asked: list[Event], delta: float) -> float:
        nonlocal evaluations
        evaluations += 1
        return filter_epsilon(asked, delta)

    monkeypatch.setattr(budget, "filter_epsilon", counted)
    filter_ = Filter(limit, 1e-5)
    admitted = 0
    while admits(filter_, events[admitted % len(events)]):
        admitted += 1
    assert admitted == 4000
    assert evaluations < 20 * math.log2(4000)


def test_no_budget_allows_everything() -> None:
    filter_ = Filter(None, 1e-5)
    for _ in range(100):
        filter_.check(GaussianEvent(0.01), 1)
        filter_.add(GaussianEvent(0.01))
    check_budget(1, [GaussianEvent(0.01)] * 100, None, 1e-5)


def test_a_refusal_says_what_where_and_what_to_do() -> None:
    with pytest.raises(BudgetExceededError, match=r"Round 7 would bring epsilon to .*, above the budget 1 .* raise"):
        check_budget(7, [GaussianEvent(1.0)], 1.0, 1e-5)
