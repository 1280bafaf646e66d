"""The key that signs ledgers on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedrec.data.home import put_new
from fedrec.errors import LedgerError

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
