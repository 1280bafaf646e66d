"""A publication: what the server offers its devices, so that all of them are offered the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from fedrec.agreements.request import is_digest
from fedrec.agreements.statement import opened, sign
from fedrec.errors import AgreementError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PURPOSE = "fedrec publication"


@dataclass(frozen=True)
class Publication:
    """The server's state as its devices may fetch it; hashes are SHA-256, in hex, of the bytes that are served.

    Attributes:
        experiment: digest of the experiment.
        round: rounds done.
        model: of the shared model; None before the first round.
        catalogue: of the items.
        roster: of the signed roster.
        issued: when, unix seconds.

    Raises:
        AgreementError: for a value that no publication has.
    """

    experiment: str
    round: int
    model: str | None
    catalogue: str
    roster: str
    issued: int

    def __post_init__(self) -> None:
        digests = (self.experiment, self.catalogue, self.roster, *([] if self.model is None else [self.model]))
        numbers = (self.round, self.issued)
        if not all(map(is_digest, digests)) or not all(type(n) is int and 0 <= n < 2**53 for n in numbers):
            raise AgreementError("A publication names what it holds by 64 hexadecimal digits and counts from 0.")


def sign_publication(publication: Publication, key: Ed25519PrivateKey) -> bytes:
    """The publication as a signed statement."""
    return sign(PURPOSE, asdict(publication), key)


def read_publication(text: bytes, trusted: bytes) -> Publication:
    """A publication that this key has signed.

    Raises:
        AgreementError: for anything else.
    """
    value = opened(text, PURPOSE, trusted)
    if set(value) != {field.name for field in fields(Publication)}:
        raise AgreementError("The publication has other fields than a publication.")
    return Publication(**value)
