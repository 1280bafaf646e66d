"""The primitives: keys, key derivation, sealing, signatures and masks. Everything secret passes through here.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF-SHA256 (RFC 5869), AES-256-GCM, and AES-128 in counter mode as the
mask generator. Every derived key has one purpose, named in its info string, and one attempt, whose digest is in it too.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

LABEL = b"fedrec-secagg/1 "
"""Starts every signed text, digest and info string, so that none of them means anything elsewhere."""

SEAL_BYTES = 16
_BLOCK = 2**17
"""Bytes of mask made at once: they stay in the cache until they are added."""
_STREAMS = 256
"""Masks made side by side."""


def digest(purpose: bytes, *parts: bytes) -> bytes:
    """SHA-256 of a purpose and parts whose lengths the purpose fixes."""
    return hashlib.sha256(LABEL + purpose + b"\0" + b"".join(parts)).digest()


def extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract: a uniform key of a shared secret."""
    return hmac.digest(salt, secret, "sha256")


def expand(key: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """HKDF-Expand to 32 bytes: the key for one purpose."""
    return hmac.digest(key, LABEL + purpose + b"\0" + b"".join(parts) + b"\x01", "sha256")


def new_pair() -> tuple[bytes, bytes]:
    """A fresh X25519 key pair, private and public, 32 bytes each."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


class Exchange:
    """One X25519 private key, ready to meet many public ones."""

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)

    @property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def shared(self, public: bytes) -> bytes:
        """The shared secret.

        Raises:
            ValueError: for a public key of low order, with which the secret would be known to everybody.
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(public))


def new_signing_key() -> tuple[bytes, bytes]:
    """A fresh Ed25519 key pair, private and public, 32 bytes each."""
    private = Ed25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def signing_public(private: bytes) -> bytes:
    """The public half of an Ed25519 key."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, message: bytes) -> bytes:
    """An Ed25519 signature, 64 bytes."""
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature is that of a key over a message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def seal(key: bytes, number: int, plain: bytes, bound: bytes) -> bytes:
    """Encrypt and authenticate the message of this number (0 to 255) under a key; a number is used once."""
    return AESGCM(key).encrypt(bytes(11) + bytes([number]), plain, bound)


def unseal(key: bytes, number: int, sealed: bytes, bound: bytes) -> bytes | None:
    """What was sealed; None if it was not sealed with this key, under this number, for this place."""
    try:
        return AESGCM(key).decrypt(bytes(11) + bytes([number]), sealed, bound)
    except InvalidTag:
        return None


def add_masks(vector: npt.NDArray[Any], plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    """Add and subtract, in place and modulo the ring, the masks of seeds. A seed makes one mask, ever.

    Args:
        vector: little-endian uint32 or uint64, contiguous.
        plus: seeds whose masks are added, 32 bytes each: an AES-128 key and where its counter starts.
        minus: seeds whose masks are subtracted.
    """
    zeros = memoryview(bytes(_BLOCK))
    buffer = bytearray(_BLOCK + 15)  # room that the cipher's interface may ask for
    mask = np.frombuffer(buffer, vector.dtype, _BLOCK // vector.itemsize)
    for seeds, combine in ((plus, np.add), (minus, np.subtract)):
        for first in range(0, len(seeds), _STREAMS):
            some = seeds[first : first + _STREAMS]
            streams = [Cipher(algorithms.AES128(seed[:16]), modes.CTR(seed[16:])).encryptor() for seed in some]
            for i in range(0, len(vector), len(mask)):
                block = vector[i : i + len(mask)]
                source, found = zeros[: block.nbytes], mask[: len(block)]
                for stream in streams:  # all masks of a block while it is in the cache
                    stream.update_into(source, buffer)
                    combine(block, found, out=block)
