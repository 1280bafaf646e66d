"""An enrolment is signed by the key that it enrols, and every key in it can be used."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from fedrec.agreements.enrolment import Enrolment, node_key_pem, read_enrolment, sign_enrolment
from fedrec.errors import AgreementError
from fedrec.secagg.enrolment import Identity


def node_key(curve: ec.EllipticCurve) -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(curve).public_key()


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


IDENTITY = Identity.generate()
NODE = node_key(ec.SECP384R1())
ENROLMENT = Enrolment(os.urandom(32), IDENTITY.member().identity, IDENTITY.member().channel, os.urandom(32), pem(NODE))
TEXT = sign_enrolment(ENROLMENT, IDENTITY.signing)


def test_an_enrolment_is_read_as_it_was_signed() -> None:
    assert read_enrolment(TEXT) == ENROLMENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"token": bytes(31)},
        {"alias": bytes(33)},
        {"channel": bytes(32)},
        {"channel": (1).to_bytes(32, "little")},
        {"channel": (2**255 - 19).to_bytes(32, "little")},
        {"channel": IDENTITY.member().identity},
        {"node_key": pem(node_key(ec.SECP256R1()))},
        {"node_key": b"-----BEGIN PUBLIC KEY-----"},
        {"node_key": b""},
    ],
)
def test_keys_that_cannot_be_used_are_refused(wrong: dict[str, bytes]) -> None:
    with pytest.raises(AgreementError):
        read_enrolment(sign_enrolment(replace(ENROLMENT, **wrong), IDENTITY.signing))


def test_it_counts_for_the_key_that_signed_it_alone() -> None:
    other = Identity.generate()
    assert read_enrolment(sign_enrolment(ENROLMENT, other.signing)).identity == other.member().identity


def test_a_node_s_key_has_one_form() -> None:
    ssh = NODE.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    assert node_key_pem(ssh + b"\n") == node_key_pem(pem(NODE)) == node_key_pem(pem(NODE) + b"\n\n") == pem(NODE)


@given(st.data())
def test_an_enrolment_of_which_a_byte_was_changed_is_refused(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(TEXT) - 1))
    changed = data.draw(st.integers(0, 255).filter(lambda value: value != TEXT[place]))
    with pytest.raises(AgreementError):
        read_enrolment(TEXT[:place] + bytes([changed]) + TEXT[place + 1 :])


@given(st.binary(max_size=200))
def test_no_bytes_do_worse_than_be_refused(text: bytes) -> None:
    with pytest.raises(AgreementError):
        read_enrolment(text)
