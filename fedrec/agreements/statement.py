"""A signed statement: one form of bytes, one purpose, one key that counts."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.errors import AgreementError, LedgerError
from fedrec.privacy.proofs import canonical_json
from fedrec.secagg import crypto

_LABEL = b"fedrec statement\0"
_MOST_BYTES = 2**28
"""More than a roster of a million devices."""


def sign(purpose: str, value: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """A statement as canonical JSON (RFC 8785): ``key``, ``purpose``, ``signature`` (Ed25519, RFC 8032) and ``value``.

    Args:
        purpose: what the statement is for; it is signed, so that a statement of one kind never passes for another.
        value: strings, integers, booleans, null, lists and mappings of these.
        key: the signer's.

    Raises:
        AgreementError: for a value that canonical JSON cannot hold.
    """
    signature = key.sign(_signed(purpose, value))
    public = key.public_key().public_bytes_raw()
    body = {"key": in_base64(public), "purpose": purpose, "signature": in_base64(signature), "value": dict(value)}
    return canonical_json(body)


def opened(text: bytes, purpose: str, trusted: bytes) -> dict[str, Any]:
    """The value of a statement.

    Args:
        text: as `sign` made it, to the byte.
        purpose: what it must be for.
        trusted: the one public key that counts, 32 bytes.

    Raises:
        AgreementError: for anything that this key has not signed for this purpose, or that has another form.

    Guarantees:
        Exactly one text states a value under a key and purpose: nothing in it can be changed without a new signature.
    """
    if len(text) > _MOST_BYTES:
        raise AgreementError(f"A {purpose} of {len(text)} bytes is larger than any; it is not read.")
    try:
        body: dict[str, Any] = json.loads(text)
        value, signature = body["value"], base64.b64decode(body["signature"], validate=True)
        sound = set(body) == {"key", "purpose", "signature", "value"} and isinstance(value, dict)
        if not sound or canonical_json(body) != text or in_base64(signature) != body["signature"]:
            raise AgreementError(f"This is not a signed {purpose} in its one form; it is damaged or was edited.")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AgreementError(f"This is not a signed {purpose} in its one form; it is damaged or was edited.") from error
    if body["purpose"] != purpose:
        raise AgreementError(f"This statement was not made as a {purpose}; it does not count as one.")
    if body["key"] != in_base64(trusted):
        raise AgreementError(f"The {purpose} is signed by another key than the trusted one.")
    if not crypto.verifies(trusted, signature, _signed(purpose, value)):
        raise AgreementError(f"The signature of the {purpose} is not valid; it is damaged or was edited.")
    return dict(value)


def _signed(purpose: str, value: Mapping[str, Any]) -> bytes:
    """What a signature covers."""
    try:
        return _LABEL + canonical_json({"purpose": purpose, "value": dict(value)})
    except LedgerError as error:
        raise AgreementError(f"A {purpose} cannot hold such a value: {error}") from error


def in_base64(raw: bytes) -> str:
    """Bytes as a statement holds them."""
    return base64.b64encode(raw).decode()
