"""The roster: which devices there are, by number and public keys, signed by who enrols them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedrec.agreements.statement import in_base64, opened, sign
from fedrec.errors import AgreementError
from fedrec.secagg.session import Member

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE = "fedrec roster"


@dataclass(frozen=True)
class SignedRoster:
    """Who is enrolled.

    Attributes:
        version: a later roster has a larger one.
        members: by the device's number, each of one user.
        digest: SHA-256 of the text, in hex; what a request names it by.
        text: the signed statement.
    """

    version: int
    members: Mapping[int, Member]
    digest: str
    text: bytes


def sign_roster(version: int, members: Mapping[int, Member], registrar_key: Ed25519PrivateKey) -> SignedRoster:
    """A roster as a signed statement: ``version`` and ``members``, each [number, identity, channel] in base64.

    Raises:
        AgreementError: for a roster that `read_roster` would not take.
    """
    rows = [[number, *map(in_base64, (one.identity, one.channel))] for number, one in sorted(members.items())]
    text = sign(PURPOSE, {"version": version, "members": rows}, registrar_key)
    return read_roster(text, registrar_key.public_key().public_bytes_raw())


def read_roster(text: bytes, trusted: bytes) -> SignedRoster:
    """A roster that this key has signed.

    Raises:
        AgreementError: for anything else, or where one key stands under two numbers.
    """
    value = opened(text, PURPOSE, trusted)
    version, rows = value.get("version"), value.get("members")
    if set(value) != {"version", "members"} or type(version) is not int or version < 0 or not isinstance(rows, list):
        raise AgreementError("The roster has other fields than a roster.")
    members = dict(_member(row) for row in rows)
    keys = [key for member in members.values() for key in (member.identity, member.channel)]
    if list(members) != sorted(members) or len(members) < len(rows) or len(set(keys)) < len(keys):
        raise AgreementError("The roster does not list each device once, in ascending order, with keys of its own.")
    return SignedRoster(version, members, hashlib.sha256(text).hexdigest(), text)


def _member(row: Any) -> tuple[int, Member]:
    try:
        number, identity, channel = row
        keys = base64.b64decode(identity, validate=True), base64.b64decode(channel, validate=True)
    except (ValueError, TypeError) as error:
        raise AgreementError("The roster holds a row that is not a number and two keys in base64.") from error
    if type(number) is not int or not 0 <= number < 2**32 or any(len(key) != 32 for key in keys):
        raise AgreementError("The roster holds a row that is not a 32-bit number and two keys of 32 bytes.")
    return number, Member(*keys)
