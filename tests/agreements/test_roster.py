"""A roster lists each device once, with keys of its own."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.agreements.publication import Publication, read_publication, sign_publication
from fedrec.agreements.roster import PURPOSE, read_roster, sign_roster
from fedrec.agreements.statement import sign
from fedrec.errors import AgreementError
from fedrec.secagg.session import Member

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
TRUSTED = KEY.public_key().public_bytes_raw()
MEMBERS = {number: Member(bytes([number]) * 32, bytes([100 + number]) * 32) for number in (7, 1, 3)}


def row(number: Any, identity: bytes = bytes([9]) * 32, channel: bytes = bytes([8]) * 32) -> list[Any]:
    return [number, base64.b64encode(identity).decode(), base64.b64encode(channel).decode()]


def test_a_signed_roster_is_read_as_it_was() -> None:
    made = sign_roster(4, MEMBERS, KEY)
    read = read_roster(made.text, TRUSTED)
    assert read == made
    assert (read.version, dict(read.members)) == (4, MEMBERS)
    assert read.digest == hashlib.sha256(made.text).hexdigest()


def test_the_same_roster_has_the_same_bytes() -> None:
    assert sign_roster(4, MEMBERS, KEY) == sign_roster(4, dict(sorted(MEMBERS.items())), KEY)


@pytest.mark.parametrize(
    "value",
    [
        {"version": 1},
        {"version": -1, "members": []},
        {"version": True, "members": []},
        {"version": 1, "members": {}},
        {"version": 1, "members": [], "more": 1},
        {"version": 1, "members": [[1]]},
        {"version": 1, "members": ["abc"]},
        {"version": 1, "members": [row("1")]},
        {"version": 1, "members": [row(2**32)]},
        {"version": 1, "members": [row(1, b"short")]},
        {"version": 1, "members": [[1, "!", "!"]]},
        {"version": 1, "members": [row(2), row(1, bytes(32), bytes([1]) * 32)]},
        {"version": 1, "members": [row(1), row(1)]},
        {"version": 1, "members": [row(1), row(2)]},
        {"version": 1, "members": [row(1, bytes(32), bytes(32))]},
    ],
    ids=str,
)
def test_a_roster_that_is_none_is_refused_though_it_is_signed(value: dict[str, Any]) -> None:
    with pytest.raises(AgreementError):
        read_roster(sign(PURPOSE, value, KEY), TRUSTED)


def test_a_publication_is_read_as_it_was_and_is_no_roster() -> None:
    publication = Publication("a" * 64, 3, "b" * 64, "c" * 64, "d" * 64, 1000)
    text = sign_publication(publication, KEY)
    assert read_publication(text, TRUSTED) == publication
    with pytest.raises(AgreementError):
        read_roster(text, TRUSTED)
    with pytest.raises(AgreementError):
        read_publication(sign("fedrec publication", {"round": 1}, KEY), TRUSTED)


@pytest.mark.parametrize("change", [{"experiment": "x"}, {"model": "x"}, {"round": -1}, {"issued": 1.5}], ids=str)
def test_a_publication_of_another_form_is_none(change: dict[str, Any]) -> None:
    values: dict[str, Any] = {"experiment": "a" * 64, "round": 0, "model": None, "issued": 0}
    with pytest.raises(AgreementError):
        Publication(**{**values, "catalogue": "c" * 64, "roster": "d" * 64, **change})
