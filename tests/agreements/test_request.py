"""A request names all that an answer depends on."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.request import (
    PURPOSE,
    Request,
    mechanism_digest,
    model_digest,
    read_request,
    sign_request,
)
from fedrec.agreements.statement import sign
from fedrec.errors import AgreementError

Arrays = dict[str, npt.NDArray[Any]]

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = KEY.public_key().public_bytes_raw()
REQUEST = Request("a" * 64, "run", 1, 0, "masked", (1, 2, 5), "b" * 64, "c" * 64, "d" * 64, 1000)


def test_a_signed_request_is_read_as_it_was() -> None:
    assert read_request(sign_request(REQUEST, KEY), TRUSTED, 999.5) == REQUEST


@pytest.mark.parametrize("now", [1000, 1000.5, 1e12])
def test_an_expired_request_is_none(now: float) -> None:
    with pytest.raises(AgreementError, match="expired"):
        read_request(sign_request(REQUEST, KEY), TRUSTED, now)


def test_another_protocol_is_named_whatever_else_it_holds() -> None:
    with pytest.raises(AgreementError, match="protocol 2, not 1"):
        read_request(sign(PURPOSE, {"protocol": 2, "new": "world"}, KEY), TRUSTED, 0)


WRONG: list[dict[str, Any]] = [
    {"experiment": "A" * 64},
    {"experiment": "a" * 63},
    {"experiment": 7},
    {"roster": None},
    {"mechanism": ""},
    {"model": "x"},
    {"model": None},
    {"phase": "agree"},
    {"phase": "join"},
    {"phase": None},
    {"run": 3},
    {"run": "r" * 129},
    {"round": 0},
    {"round": True},
    {"round": "1"},
    {"attempt": -1},
    {"attempt": 1.0},
    {"expires": None},
    {"cohort": ()},
    {"cohort": (2, 1)},
    {"cohort": (1, 1)},
    {"cohort": (-1, 1)},
    {"cohort": ("1",)},
]


@pytest.mark.parametrize("change", WRONG, ids=str)
def test_a_value_that_no_request_has_is_refused_when_made_and_when_read(change: dict[str, Any]) -> None:
    with pytest.raises(AgreementError):
        replace(REQUEST, **change)
    if all(not isinstance(value, float) for value in change.values()):
        with pytest.raises(AgreementError):
            read_request(sign(PURPOSE, {**asdict(REQUEST), **change}, KEY), TRUSTED, 0)


def test_every_field_must_be_there() -> None:
    for field in fields(Request):
        value = asdict(REQUEST)
        del value[field.name]
        with pytest.raises(AgreementError):
            read_request(sign(PURPOSE, value, KEY), TRUSTED, 0)


def test_a_model_s_digest_changes_with_every_part_of_it() -> None:
    arrays: Arrays = {"a": np.arange(6, dtype=np.float32), "b": np.arange(6, dtype=np.int64).reshape(2, 3)}
    variants: list[Arrays] = [
        arrays,
        {},
        {"a": arrays["a"]},
        {"a": arrays["a"], "c": arrays["b"]},
        {"a": arrays["a"], "b": arrays["b"].reshape(3, 2)},
        {"a": arrays["a"].astype(np.float64), "b": arrays["b"]},
        {"a": arrays["a"] + np.float32(1e-3), "b": arrays["b"]},
        {"a": np.zeros((0, 3), np.float32)},
        {"a": np.zeros((3, 0), np.float32)},
    ]
    assert len({model_digest(variant) for variant in variants}) == len(variants)
    assert model_digest(dict(reversed(arrays.items()))) == model_digest(arrays)
    assert model_digest({**arrays, "b": np.asfortranarray(arrays["b"])}) == model_digest(arrays)
    assert model_digest({**arrays, "a": arrays["a"].astype(">f4")}) == model_digest(arrays)


def test_a_mechanism_s_digest_holds_floats_to_the_last_bit() -> None:
    event = {"release": "mf", "noise_multiplier": 0.1, "cohort": 3}
    assert mechanism_digest(event) == mechanism_digest(dict(reversed(event.items())))
    assert mechanism_digest(event) != mechanism_digest({**event, "noise_multiplier": np.nextafter(0.1, 1).item()})
    assert mechanism_digest(event) != mechanism_digest({**event, "cohort": 4})
