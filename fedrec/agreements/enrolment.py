"""What a device shows a server to be enrolled: a one-time token and the public half of its keys, signed by itself."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.statement import in_base64, opened, sign
from fedrec.errors import AgreementError
from fedrec.secagg import crypto

PURPOSE = "fedrec enrolment"
TOKEN_BYTES = 32
_SIZES = {"token": TOKEN_BYTES, "channel": 32, "alias": 32}


@dataclass(frozen=True, repr=False)
class Enrolment:
    """A device that wants a number.

    Attributes:
        token: what the server's operator gave it, 32 bytes.
        identity: Ed25519 public key, 32 bytes: the signer of this enrolment.
        channel: X25519 public key, 32 bytes.
        alias: 32 random bytes of which its pseudonym in each run is made.
        node_key: its EC P-384 public key for Flower, as PEM.
    """

    token: bytes
    identity: bytes
    channel: bytes
    alias: bytes
    node_key: bytes


def sign_enrolment(enrolment: Enrolment, signing: bytes) -> bytes:
    """The enrolment as a statement that its identity key signs, so that nobody enrols the keys of another."""
    value = {name: in_base64(getattr(enrolment, name)) for name in _SIZES} | {
        "node_key": enrolment.node_key.decode("ascii")
    }
    return sign(PURPOSE, value, Ed25519PrivateKey.from_private_bytes(signing))


def read_enrolment(text: bytes) -> Enrolment:
    """An enrolment that the identity in it has signed.

    Guarantees:
        The sender holds the identity's private key, and every key is one that can be used: of the right length and
        curve, and the channel's of full order (else its channels' secrets would be known to everybody).

    Raises:
        AgreementError: for anything else.
    """
    identity = signer(text)
    value = opened(text, PURPOSE, identity)
    if set(value) != {*_SIZES, "node_key"} or not all(isinstance(field, str) for field in value.values()):
        raise AgreementError("The enrolment has other fields than an enrolment.")
    raw = {name: _bytes(value[name], size, name) for name, size in _SIZES.items()}
    channel = raw["channel"]
    if channel == identity:
        raise AgreementError("The enrolment has one key for two purposes.")
    try:
        crypto.Exchange(crypto.new_pair()[0]).shared(channel)
    except ValueError as error:
        raise AgreementError("The enrolment's channel key has low order; it keeps nothing secret.") from error
    return Enrolment(identity=identity, node_key=node_key_pem(value["node_key"].encode()), **raw)


def signer(text: bytes) -> bytes:
    """The key that a statement says it is signed with, 32 bytes, for one that speaks for itself alone.

    Raises:
        AgreementError: if it says none.
    """
    try:
        key = base64.b64decode(json.loads(text)["key"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AgreementError("This is not a signed statement; it is damaged, or of another version.") from error
    if len(key) != 32:
        raise AgreementError("The statement's key is not 32 bytes; it is damaged, or of another version.")
    return key


def node_key_pem(public: bytes) -> bytes:
    """A node's public key as Flower sends it (PEM), from that or from OpenSSH's form.

    Raises:
        AgreementError: if it is neither, or not on the curve P-384.
    """
    ssh = public.startswith(b"ecdsa-")
    try:
        key = serialization.load_ssh_public_key(public) if ssh else serialization.load_pem_public_key(public)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise AgreementError("The node's key is not a public key in PEM or OpenSSH's form.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise AgreementError("The node's key is not an elliptic-curve key on P-384.")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _bytes(text: str, size: int, name: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != size:
        raise AgreementError(f"The enrolment's '{name}' is not {size} bytes in base64.")
    return raw
