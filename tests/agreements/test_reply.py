"""A reply's signature says which device gave it, and to what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.agreements.reply import Reply, sign_reply, verify_reply
from fedrec.errors import AgreementError
from fedrec.secagg import crypto

SIGNING, IDENTITY = crypto.new_signing_key()
TABLE = np.arange(6, dtype=np.float32).reshape(2, 3)
REPLY = Reply("ab" * 32, 3, 1, "train", b"a message", {"table": TABLE, "bias": TABLE[0]})


def test_a_devices_own_reply_is_verified() -> None:
    verify_reply(REPLY, sign_reply(REPLY, SIGNING), IDENTITY)


def test_the_same_reply_gets_the_same_signature() -> None:
    assert sign_reply(REPLY, SIGNING) == sign_reply(replace(REPLY), SIGNING)


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": "cd" * 32},
        {"round": 4},
        {"attempt": 0},
        {"phase": "masked"},
        {"message": b"a massage"},
        {"message": b""},
        {"arrays": {"table": TABLE + 1, "bias": TABLE[0]}},
        {"arrays": {"table": TABLE.T, "bias": TABLE[0]}},
        {"arrays": {"table": TABLE}},
        {"arrays": {"bias": TABLE, "table": TABLE[0]}},
    ],
)
def test_nothing_of_a_reply_can_be_changed(changes: dict[str, Any]) -> None:
    with pytest.raises(AgreementError, match="forged or damaged"):
        verify_reply(replace(REPLY, **changes), sign_reply(REPLY, SIGNING), IDENTITY)


def test_another_devices_signature_is_none() -> None:
    other, _ = crypto.new_signing_key()
    with pytest.raises(AgreementError):
        verify_reply(REPLY, sign_reply(REPLY, other), IDENTITY)


@given(st.binary(max_size=80))
def test_whatever_else_comes_as_a_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(AgreementError):
        verify_reply(REPLY, signature, IDENTITY)


def test_an_access_signature_is_no_reply() -> None:
    with pytest.raises(AgreementError):
        verify_reply(REPLY, crypto.sign(SIGNING, b"fedrec access\0"), IDENTITY)
