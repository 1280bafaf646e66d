"""A device signs its replies: the channel does not say who made one, and each counts under one device's name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from fedrec.agreements.request import model_digest
from fedrec.errors import AgreementError
from fedrec.privacy.proofs import canonical_json
from fedrec.secagg import crypto

_LABEL = b"fedrec reply\0"


@dataclass(frozen=True, eq=False)
class Reply:
    """What a device says in one phase of one attempt.

    Attributes:
        experiment: its digest, 64 hexadecimal digits.
        round: from 1.
        attempt: from 0.
        phase: one of `fedrec.agreements.request.PHASES`.
        message: secure aggregation's.
        arrays: the vector of phase ``train``.
    """

    experiment: str
    round: int
    attempt: int
    phase: str
    message: bytes = b""
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


def sign_reply(reply: Reply, signing: bytes) -> bytes:
    """The reply's signature (Ed25519, RFC 8032), 64 bytes; the same reply always gets the same.

    Args:
        reply: all of it.
        signing: the device's identity key, 32 private bytes.
    """
    return crypto.sign(signing, _text(reply))


def verify_reply(reply: Reply, signature: bytes, identity: bytes) -> None:
    """Refuse a reply that the device has not signed.

    Args:
        reply: as it came, with the experiment, round, attempt and phase that were asked for.
        signature: that came with it.
        identity: the signing key on the roster, 32 public bytes, of the device that was asked.

    Raises:
        AgreementError: for any other signature.

    Guarantees:
        The holder of the identity key gave this very reply to this phase of this attempt: no other device, and not this
        one to another phase, attempt or experiment. A refusal carries no signature and proves nothing of its sender.
    """
    if not crypto.verifies(identity, signature, _text(reply)):
        raise AgreementError("The reply is not signed by the device that was asked; it was forged or damaged.")


def _text(reply: Reply) -> bytes:
    return _LABEL + canonical_json(
        {
            "arrays": model_digest(reply.arrays),
            "attempt": reply.attempt,
            "experiment": reply.experiment,
            "message": hashlib.sha256(reply.message).hexdigest(),
            "phase": reply.phase,
            "round": reply.round,
        }
    )
