"""Pseudonymous user ids: the ids of a data file do not get past ingestion."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from fedrec.data.home import home, put_new
from fedrec.errors import DataError

KEY_BYTES = 32


def key() -> bytes:
    """This machine's own random key, made at first use and readable by its owner only.

    Raises:
        DataError: when it cannot be written or read, is damaged, or lies open to others.
    """
    file = home() / "keys" / "pseudonym.key"
    if not file.exists():
        put_new(file, secrets.token_bytes(KEY_BYTES))
    try:
        value, mode = file.read_bytes(), file.stat().st_mode
    except OSError as error:
        raise DataError(f"Cannot read the pseudonym key {file}: {error.strerror or error}.") from error
    if len(value) != KEY_BYTES:
        raise DataError(
            f"The pseudonym key {file} has {len(value)} bytes where {KEY_BYTES} are needed; restore or delete it."
        )
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise DataError(f"The pseudonym key {file} is open to other users; run: chmod 600 {file}")
    return value


def pseudonyms(ids: Iterable[bytes], secret: bytes) -> npt.NDArray[np.str_]:
    """HMAC-SHA256 (RFC 2104) of each id, the first 16 hex digits.

    Guarantees: without the key, a pseudonym can be neither turned back into an id nor checked against a guessed one.
    Sixty-four bits: among a million users the chance of any two sharing a pseudonym is 3e-8.
    """
    digests = [hmac.digest(secret, user, "sha256").hex()[:16] for user in ids]
    return np.array(digests, dtype="U16")
