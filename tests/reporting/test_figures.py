import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.reporting import figures


@given(st.floats(min_value=1e-3, max_value=1e4))
def test_epsilon_is_never_shown_smaller_than_it_is(value: float) -> None:
    assert float(figures.epsilon(value)) >= value - 1e-6


@pytest.mark.parametrize(
    ("value", "text"), [(8.0, "8"), (7.99987, "8"), (2.1, "2.1"), (0.0714, "0.072"), (1.001, "1.001")]
)
def test_epsilon_has_three_decimals_rounded_up(value: float, text: str) -> None:
    assert figures.epsilon(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (123_456_789, "123 MB"), (3.4e12, "3.4 TB")],
)
def test_sizes(value: float, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.7, "1 min 00 s"),
        (83.2, "1 min 23 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert figures.duration(value) == text


def test_the_interval_is_the_binomials() -> None:
    assert figures.interval(0.5, 100) == pytest.approx(1.96 * 0.05)
    assert figures.interval(None, 100) is None
    assert figures.interval(0.5, 0) is None


@given(st.floats(min_value=1e-12, max_value=0.5))
def test_a_probability_in_words_is_never_smaller(probability: float) -> None:
    words = figures.one_in(probability).removeprefix("1 in ").replace(",", "")
    assert int(words) <= 1 / probability + 1e-6
    assert math.isfinite(float(words))


def test_nothing_is_a_dash() -> None:
    assert {f(None) for f in (figures.rate, figures.epsilon, figures.size, figures.duration, figures.number)} == {
        figures.DASH
    }
