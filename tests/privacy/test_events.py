"""Events: what a ledger records gives the very event back, and nothing else passes for one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import LedgerError, PrivacyError
from fedrec.privacy.events import Event, GaussianEvent, SkellamEvent, from_fields, to_fields

EVENTS = st.one_of(
    st.builds(GaussianEvent, st.floats(1e-4, 1e12), st.floats(1e-9, 1), st.integers(1, 10**6)),
    st.builds(SkellamEvent, st.floats(1e-6, 1e30), st.floats(1e-6, 1e15), st.floats(1e-6, 1e30), st.floats(0, 1)),
)

GAUSSIAN = {"kind": "gaussian", "noise_multiplier": "1.5", "sampling_rate": "1.0", "steps": 3}
SKELLAM = {"kind": "skellam", "variance": "9.0", "l2": "2.0", "l1": "3.0", "distance": "0.0"}


@given(EVENTS)
def test_an_event_survives_the_ledger(event: Event) -> None:
    record = json.loads(json.dumps(to_fields(event)))
    assert from_fields(record) == event
    assert to_fields(from_fields(record)) == record


def test_the_recorded_form() -> None:
    assert to_fields(GaussianEvent(1.5, steps=3)) == GAUSSIAN
    assert to_fields(SkellamEvent(9.0, 2.0, 3.0)) == SKELLAM
    assert to_fields(SkellamEvent(9, 2, 3, 0)) == SKELLAM  # an int is the same decimal


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "laplace"}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": ["gaussian"]}, "kind"),
        ({"noise_multiplier": None}, "noise_multiplier"),
        ({"noise_multiplier": 1.5}, "noise_multiplier"),
        ({"noise_multiplier": "1.50"}, "noise_multiplier"),
        ({"noise_multiplier": "nan"}, "noise_multiplier"),
        ({"noise_multiplier": "inf"}, "noise_multiplier"),
        ({"noise_multiplier": "-1.0"}, "noise_multiplier"),
        ({"noise_multiplier": "0.0"}, "noise_multiplier"),
        ({"noise_multiplier": "abc"}, "noise_multiplier"),
        ({"sampling_rate": "1.5"}, "sampling_rate"),
        ({"sampling_rate": "0.0"}, "sampling_rate"),
        ({"steps": "3"}, "steps"),
        ({"steps": 3.0}, "steps"),
        ({"steps": True}, "steps"),
        ({"steps": 0}, "steps"),
        ({"steps": 10**9}, "steps"),
        ({"epsilon": "1.0"}, "unknown field 'epsilon'"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(LedgerError, match=named):
        from_fields({**GAUSSIAN, **change})


@pytest.mark.parametrize("record", [GAUSSIAN, SKELLAM])
def test_a_missing_field_is_named(record: dict[str, Any]) -> None:
    for name in record:
        with pytest.raises(LedgerError, match=name):
            from_fields({key: value for key, value in record.items() if key != name})


@pytest.mark.parametrize("field", ["variance", "l2", "l1", "distance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_an_event_out_of_range_cannot_be_made(field: str, value: float) -> None:
    values = {"variance": 9.0, "l2": 2.0, "l1": 3.0, "distance": 0.0}
    with pytest.raises(PrivacyError, match=field):
        SkellamEvent(**{**values, field: value})
