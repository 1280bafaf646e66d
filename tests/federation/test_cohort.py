"""The cohort: as many as asked, every user as likely as any other, and a new draw every round and attempt."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.errors import ConfigError
from fedrec.federation.cohort import choose
from fedrec.randomness import Key


@pytest.mark.parametrize("size", [None, 50])
def test_everyone(size: int | None) -> None:
    cohort = choose(50, size, Key(1))
    np.testing.assert_array_equal(cohort.users, np.arange(50))
    assert cohort.how == "everyone"


@pytest.mark.parametrize("size", [1, 7, 49])
def test_a_cohort_has_its_size_and_no_user_twice(size: int) -> None:
    cohort = choose(50, size, Key(1))
    assert len(cohort.users) == size
    assert (np.diff(cohort.users) > 0).all()
    assert cohort.users.dtype == np.int64
    assert cohort.users.min() >= 0
    assert cohort.users.max() < 50
    assert cohort.how == "uniform without replacement"


def test_a_cohort_larger_than_the_population_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"federation\.cohort = 51 .* 50 users"):
        choose(50, 51, Key(1))


def test_every_user_is_as_likely_as_any_other() -> None:
    """2000 rounds of 10 among 50: the sum of squares over its mean is chi-square with 49 degrees of freedom, within
    its 1e-6 quantile of 117."""
    counts = np.zeros(50)
    for round_ in range(2000):
        counts[choose(50, 10, Key(1).at(round_)).users] += 1
    variance = 2000 * 0.2 * 0.8
    assert ((counts - 400) ** 2 / variance).sum() * 49 / 50 < 117


def test_a_draw_is_pure_and_another_in_every_round_and_attempt() -> None:
    np.testing.assert_array_equal(choose(500, 20, Key(1).at(3)).users, choose(500, 20, Key(1).at(3)).users)
    for other in (Key(1).at(4), Key(1).at(3, 1), Key(2).at(3)):
        shared = np.intersect1d(choose(500, 20, Key(1).at(3)).users, choose(500, 20, other).users)
        assert len(shared) < 9  # 9 of 20 in common by chance: below 1e-6
