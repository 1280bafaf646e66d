"""The key that signs ledgers on this machine, the keys of others, and the names of clients in a ledger."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.data.home import put_new
from fedrec.errors import LedgerError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def signing_key(home: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in ``home/keys/ledger.key`` (32 raw bytes, mode 0600), made at first use.

    Raises:
        LedgerError: if the file does not hold such a key.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = home / "keys" / "ledger.key"
    if not path.exists():
        put_new(path, Ed25519PrivateKey.generate().private_bytes_raw())
    raw = path.read_bytes()
    if len(raw) != 32:
        raise LedgerError(f"'{path}' is not a 32-byte Ed25519 key; move it away and a new one is made.")
    return Ed25519PrivateKey.from_private_bytes(raw)


def public_key(given: str) -> bytes:
    """An Ed25519 public key, 32 bytes, from base64 as a checkpoint has it under ``key``, or from a file of that.

    Raises:
        UsageError: if it is neither.
    """
    try:
        text = Path(given).read_text(encoding="ascii") if Path(given).is_file() else given
        key = base64.b64decode(text.strip(), validate=True)
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise UsageError(f"'{given}' is not a public key: give the base64 of 32 bytes, or a file that holds it.")
    return key


def pseudonym(secret: bytes, run: str) -> str:
    """A client's name in the ledger of one run: HMAC-SHA256 of the run's id, in hex.

    Guarantees:
        Without the secret it names nobody, and two runs' pseudonyms of a client cannot be linked; with it, the client
        finds itself.

    Args:
        secret: at least 16 random bytes that never leave the client and serve no other purpose.
        run: the run's id.

    Raises:
        LedgerError: if the secret is too short to be one.
    """
    if len(secret) < 16:
        raise LedgerError(f"A client's secret has at least 16 random bytes, not {len(secret)}: anyone could guess it.")
    return hmac.digest(secret, run.encode(), hashlib.sha256).hex()
