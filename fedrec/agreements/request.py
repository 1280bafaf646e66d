"""A request to a device: what it is asked for, signed by the server's own key, whoever carries it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedrec.agreements.statement import opened, sign
from fedrec.errors import AgreementError
from fedrec.privacy.proofs import canonical_json, plain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PROTOCOL = 1
"""A device refuses a request of another version."""

PURPOSE = "fedrec request"

SECURE_PHASES = ("advert", "shares", "masked", "agree", "unmask")
"""Secure aggregation, for trust ``distributed``."""

PHASES = (*SECURE_PHASES, "train")
"""``train`` asks, for trust ``local``, for a vector that carries all of the noise."""

RELEASING = ("masked", "train")
"""The phases that bring the shared model and whose answer is made from a history: a device charges itself for them."""


@dataclass(frozen=True)
class Request:
    """One phase of one attempt at one round.

    Attributes:
        experiment: its digest, which names the training for ever, whatever run of the server asks.
        run: the server's run, for its logs alone.
        round: from 1.
        attempt: from 0; a retry is a new one.
        phase: one of `PHASES`.
        cohort: the numbers of the devices that are asked, ascending.
        roster: digest of the roster that they stand on.
        mechanism: `mechanism_digest` of the attempt's plan.
        model: `model_digest` of the shared model, in `RELEASING` phases; else None.
        expires: until when it may be taken for a fresh one, unix seconds.
        protocol: the version.

    Raises:
        AgreementError: for a value that no request has.
    """

    experiment: str
    run: str
    round: int
    attempt: int
    phase: str
    cohort: tuple[int, ...]
    roster: str
    mechanism: str
    model: str | None
    expires: int
    protocol: int = PROTOCOL

    def __post_init__(self) -> None:
        digests = (self.experiment, self.roster, self.mechanism, *([] if self.model is None else [self.model]))
        if not all(is_digest(digest) for digest in digests):
            raise AgreementError("A request names experiment, roster, mechanism and model by 64 hexadecimal digits.")
        if not isinstance(self.run, str) or len(self.run) > 128:
            raise AgreementError("A request names its run by at most 128 characters.")
        numbers = (self.round, self.attempt, self.expires, self.protocol, *self.cohort)
        if not all(type(number) is int and 0 <= number < 2**53 for number in numbers) or self.round < 1:
            raise AgreementError("A request counts rounds from 1 and everything else from 0, in integers.")
        if not self.cohort or any(a >= b for a, b in zip(self.cohort, self.cohort[1:], strict=False)):
            raise AgreementError("A request lists at least one device, each once and in ascending order.")
        if self.phase not in PHASES or (self.model is not None) != (self.phase in RELEASING):
            raise AgreementError(f"A request of phase {self.phase!r} is none, or names a model where it must not.")


def sign_request(request: Request, key: Ed25519PrivateKey) -> bytes:
    """The request as a signed statement."""
    return sign(PURPOSE, asdict(request), key)


def read_request(text: bytes, trusted: bytes, now: float) -> Request:
    """A request that this key has signed, in this protocol, and that has not expired.

    Raises:
        AgreementError: for anything else.
    """
    value = opened(text, PURPOSE, trusted)
    check_protocol(value)
    request = request_of(value)
    check_expiry(request, now)
    return request


def check_protocol(value: Mapping[str, Any]) -> None:
    """Refuse another version, of which nothing else is read.

    Raises:
        AgreementError: naming both versions.
    """
    if value.get("protocol") != PROTOCOL:
        raise AgreementError(
            f"The request speaks protocol {value.get('protocol')!r}, not {PROTOCOL}: install a fedrec of the server's "
            "version."
        )


def request_of(value: Mapping[str, Any]) -> Request:
    """A request from the value of its statement.

    Raises:
        AgreementError: for missing or unknown fields, or values that no request has.
    """
    if set(value) != {field.name for field in fields(Request)} or not isinstance(value["cohort"], list):
        raise AgreementError("The request has other fields than a request.")
    return Request(**{**value, "cohort": tuple(value["cohort"])})


def check_expiry(request: Request, now: float) -> None:
    """Refuse a request that may be taken no more.

    Raises:
        AgreementError: saying since when.
    """
    if request.expires <= now:
        raise AgreementError(
            f"The request expired {now - request.expires:.0f} s ago: it was kept back, or a clock is wrong."
        )


def is_digest(value: Any) -> bool:
    """Whether a value is a SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def model_digest(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """SHA-256 over a shared model: each array's name, type, shape and bytes (C order, little-endian), by name."""
    whole = hashlib.sha256(b"fedrec model\0")
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header = canonical_json({"dtype": array.dtype.str, "name": name, "shape": list(arrays[name].shape)})
        whole.update(len(header).to_bytes(8) + header)
        whole.update(array.data.cast("B") if array.size else b"")
    return whole.hexdigest()


def mechanism_digest(event: Mapping[str, Any]) -> str:
    """SHA-256 over what a plan declares (`fedrec.federation.round.Plan.event`), floats by their ``repr``."""
    return hashlib.sha256(canonical_json(plain(event))).hexdigest()
