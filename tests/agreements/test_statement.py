"""A statement counts for one purpose, under one key, in one form."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.agreements.statement import opened, sign
from fedrec.errors import AgreementError

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2))
TRUSTED = KEY.public_key().public_bytes_raw()

SCALARS = st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20)
NAMES = st.text(st.characters(max_codepoint=127), max_size=10)
VALUES = st.dictionaries(NAMES, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=8))


@given(VALUES)
def test_what_was_signed_is_what_is_read(value: dict[str, object]) -> None:
    assert opened(sign("test", value, KEY), "test", TRUSTED) == value


@settings(max_examples=300)
@given(st.data())
def test_no_changed_byte_is_read(data: st.DataObject) -> None:
    text = bytearray(sign("test", {"a": 1, "b": ["x", None]}, KEY))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(AgreementError):
        opened(bytes(text), "test", TRUSTED)


@given(st.binary(max_size=200))
def test_garbage_is_one_error(text: bytes) -> None:
    with pytest.raises(AgreementError):
        opened(text, "test", TRUSTED)


def test_another_key_purpose_or_form_does_not_count() -> None:
    text = sign("test", {"a": 1}, KEY)
    body = json.loads(text)
    signature = base64.b64decode(body["signature"])
    forged = {**body, "key": base64.b64encode(OTHER.public_key().public_bytes_raw()).decode()}
    for wrong, purpose in (
        (sign("test", {"a": 1}, OTHER), "test"),
        (text, "other"),
        (text.replace(b'"purpose":"test"', b'"purpose":"other"'), "other"),
        (json.dumps(body).encode(), "test"),
        (text + b"\n", "test"),
        (json.dumps(forged, separators=(",", ":"), sort_keys=True).encode(), "test"),
        (text.replace(body["signature"].encode(), base64.b64encode(signature[::-1])), "test"),
        (b'{"a":1,"a":1}', "test"),
        (b"[" * 100_000, "test"),
        (b"[1]", "test"),
        (b"\xff", "test"),
    ):
        with pytest.raises(AgreementError):
            opened(wrong, purpose, TRUSTED)


@pytest.mark.parametrize("value", [{"a": 0.5}, {"a": 2**53}, {"é": 1}, {"a": b"x"}])
def test_what_has_many_forms_is_not_signed(value: dict[str, object]) -> None:
    with pytest.raises(AgreementError, match="cannot hold"):
        sign("test", value, KEY)
