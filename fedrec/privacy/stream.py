"""Streams of random 64-bit words: a cryptographic one for devices, a seeded one for simulations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]

_CHUNK = 2**20
"""Bytes that one key yields; ChaCha20's 32-bit block counter would last for 2**38."""

_ZEROS = bytes(_CHUNK)


class Words(Protocol):
    """A source of random words."""

    def words(self, n: int) -> U64:
        """The next ``n`` words, uint64 ``[n]``, uniform and independent."""
        ...


@dataclass(frozen=True)
class SecureWords:
    """ChaCha20 keystreams (RFC 8439), each under a 256-bit key that the operating system gives for it alone.

    Guarantees:
        Nothing is kept between two calls, neither key nor counter. So a forked child, a copy of this object or a
        restored snapshot of the process never repeats a stream, and what has been drawn cannot be computed again from
        any later state; both rest on the operating system's generator alone.
    """

    def words(self, n: int) -> U64:
        """The next ``n`` words, uint64 ``[n]``."""
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        stream = np.empty(8 * n, np.uint8)
        for start in range(0, len(stream), _CHUNK):
            chunk = stream[start : start + _CHUNK]
            # A key is used for one message only, so its nonce (and counter) may be zero.
            cipher = Cipher(ChaCha20(os.urandom(32), bytes(16)), mode=None)
            cipher.encryptor().update_into(_ZEROS[: len(chunk)], chunk.data)
        return stream.view(np.uint64)


@dataclass(frozen=True)
class SeededWords:
    """Words of a NumPy generator, for simulations that must repeat: whoever knows the seed knows them.

    Guarantees:
        None. Noise from these words protects nobody.
    """

    generator: np.random.Generator

    def words(self, n: int) -> U64:
        """The next ``n`` words, uint64 ``[n]``."""
        return self.generator.integers(0, 2**64, n, np.uint64)
