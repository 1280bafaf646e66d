"""How a device shows its server's gateway that it is itself, in every request for what only devices may fetch."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping

from fedrec.errors import AgreementError
from fedrec.secagg import crypto

WINDOW = 300
"""Seconds by which the clocks of a device and its server may differ."""

NUMBER, TIME, SIGNATURE = "fedrec-device", "fedrec-time", "fedrec-signature"
"""The headers: its number, unix seconds, and its identity's signature in base64url."""

_LABEL = b"fedrec access\0"


def access_headers(signing: bytes, server: bytes, number: int, path: str, now: float) -> dict[str, str]:
    """The headers of a GET of a path.

    Args:
        signing: the device's identity key, 32 private bytes.
        server: the server's request key, 32 public bytes: a signature for one server says nothing to another.
        number: the device's.
        path: absolute, without a query.
        now: unix seconds.
    """
    signature = crypto.sign(signing, _text(server, number, path, int(now)))
    return {NUMBER: str(number), TIME: str(int(now)), SIGNATURE: base64.urlsafe_b64encode(signature).decode("ascii")}


def check_access(
    headers: Mapping[str, str], server: bytes, path: str, now: float, identity_of: Callable[[int], bytes | None]
) -> int:
    """The number of the device whose headers these are.

    Guarantees:
        The holder of the identity key asked this server for this path within `WINDOW` of now. A request that
        somebody recorded can be repeated within it, which fetches the same again; TLS keeps it from being recorded.

    Raises:
        AgreementError: for anything else.
    """
    try:
        number, signed = int(headers[NUMBER]), int(headers[TIME])
        signature = base64.urlsafe_b64decode(headers[SIGNATURE])
    except (KeyError, ValueError) as error:
        raise AgreementError("The request carries no device's signature.") from error
    if not 0 <= number < 2**32 or not 0 <= signed < 2**53 or abs(signed - now) > WINDOW:
        raise AgreementError(f"The request was signed more than {WINDOW} s from now; set the clock.")
    identity = identity_of(number)
    if identity is None or not crypto.verifies(identity, signature, _text(server, number, path, signed)):
        raise AgreementError(f"The request is not signed by an enrolled device {number}.")
    return number


def _text(server: bytes, number: int, path: str, time: int) -> bytes:
    return _LABEL + server + f"GET {path} {number} {time}".encode()
