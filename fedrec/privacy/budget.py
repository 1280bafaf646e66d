"""The budget: what refuses a charge, whatever the charges before it have shown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from fedrec.errors import BudgetExceededError
from fedrec.privacy.accounting import filter_epsilon
from fedrec.privacy.events import Event

_TOLERANCE = 1e-9
"""What rounding may add to an epsilon, as a part of the budget."""


class Filter:
    """Refuses what a budget does not allow.

    Guarantees:
        `filter_epsilon` of everything that was charged after a passed `check` is at most the budget. It is evaluated
        ahead, for up to twice the charges, because an epsilon only grows with them: n charges of a few kinds take the
        order of log² n evaluations.

    Args:
        budget: epsilon; None allows everything.
        delta: the probability that the promise does not cover.
    """

    def __init__(self, budget: float | None, delta: float) -> None:
        self._budget, self._delta = budget, delta
        self._charged: Counter[Event] = Counter()
        self._affordable: Counter[Event] = Counter()  # empty, or no less than what is charged

    def check(self, event: Event, round_: int) -> None:
        """Refuse an event that is not to be charged.

        Raises:
            BudgetExceededError: if the filter's epsilon with it is above the budget.
        """
        if self._budget is None or self._charged[event] < self._affordable[event]:
            return
        after = self._charged + Counter([event])
        check_budget(round_, list(after.elements()), self._budget, self._delta)
        self._affordable = self._ahead(after, self._budget) if after[event] > 1 else after

    def add(self, event: Event) -> None:
        """Charge an event."""
        self._charged[event] += 1
        if self._charged[event] > self._affordable[event]:  # it was not checked
            self._affordable = Counter()

    def remove(self, event: Event) -> None:
        """Take a charge back."""
        self._charged[event] -= 1

    def _ahead(self, charged: Counter[Event], budget: float) -> Counter[Event]:
        """Up to twice these charges, as far as the budget allows them."""
        share = 1.0
        while share * charged.total() >= 1:
            more = Counter({event: count + math.ceil(count * share) for event, count in charged.items()})
            if _within(filter_epsilon(list(more.elements()), self._delta), budget):
                return more
            share /= 2
        return charged


def check_budget(round_: int, events: Sequence[Event], budget: float | None, delta: float) -> None:
    """Refuse a round whose event is the last of these; a budget of None allows everything.

    Raises:
        BudgetExceededError: if the filter's epsilon of them all is above the budget.
    """
    if budget is None:
        return
    after = filter_epsilon(events, delta)
    if not _within(after, budget):
        raise BudgetExceededError(
            f"Round {round_} would bring epsilon to {after:.4g}, above the budget {budget:g} at delta {delta:g}; "
            "raise privacy.epsilon or privacy.noise_multiplier, or run fewer rounds."
        )


def _within(epsilon: float, budget: float) -> bool:
    return epsilon <= budget * (1 + _TOLERANCE)
