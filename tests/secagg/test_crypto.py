"""The primitives, against independent implementations."""

from __future__ import annotations

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedrec.secagg import crypto


def mask(seed: bytes, size: int, dtype: str) -> np.ndarray:
    stream = Cipher(algorithms.AES128(seed[:16]), modes.CTR(seed[16:])).encryptor()
    return np.frombuffer(stream.update(bytes(size * np.dtype(dtype).itemsize)), dtype)


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("size", [0, 1, 3, 1000, 2**15, 2**15 + 1, 70_001])
def test_masks_are_added_and_subtracted_modulo_the_ring(size: int, dtype: str) -> None:
    seeds = [os.urandom(32) for _ in range(5)]
    start = np.frombuffer(os.urandom(size * np.dtype(dtype).itemsize), dtype).copy()
    found = start.copy()
    crypto.add_masks(found, seeds[:3], seeds[3:])
    wanted = start.copy()
    for seed in seeds[:3]:
        wanted += mask(seed, size, dtype)
    for seed in seeds[3:]:
        wanted -= mask(seed, size, dtype)
    assert np.array_equal(found, wanted)
    crypto.add_masks(found, seeds[3:], seeds[:3])
    assert np.array_equal(found, start)


def test_more_masks_than_are_made_side_by_side() -> None:
    seeds = [i.to_bytes(32) for i in range(600)]
    found = np.zeros(10, "<u4")
    crypto.add_masks(found, seeds, [])
    assert np.array_equal(found, sum(mask(seed, 10, "<u4") for seed in seeds))


def test_a_mask_is_uniform() -> None:
    """Chi-square over the bytes of a million words; fails at 1 in 1,000,000."""
    found = np.zeros(2**20, "<u4")
    crypto.add_masks(found, [os.urandom(32)], [])
    counts = np.bincount(found.view(np.uint8), minlength=256)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < chi2.isf(1e-6, 255)


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=32), st.binary(max_size=90))
def test_key_derivation_is_hkdf(secret: bytes, salt: bytes, info: bytes) -> None:
    wanted = HKDF(SHA256(), 32, salt, crypto.LABEL + b"purpose\0" + info).derive(secret)
    assert crypto.expand(crypto.extract(salt, secret), b"purpose", info) == wanted


def test_the_exchange_is_mutual_and_refuses_keys_of_low_order() -> None:
    (a, a_public), (b, b_public) = crypto.new_pair(), crypto.new_pair()
    assert crypto.Exchange(a).shared(b_public) == crypto.Exchange(b).shared(a_public)
    assert crypto.Exchange(a).public == a_public
    for low in (bytes(32), b"\x01" + bytes(31)):
        with pytest.raises(ValueError):  # noqa: PT011 # the library's own words
            crypto.Exchange(a).shared(low)


def test_a_seal_opens_with_its_key_number_and_place_only() -> None:
    key, plain = os.urandom(32), b"shares"
    sealed = crypto.seal(key, 1, plain, b"here")
    assert crypto.unseal(key, 1, sealed, b"here") == plain
    assert crypto.unseal(os.urandom(32), 1, sealed, b"here") is None
    assert crypto.unseal(key, 0, sealed, b"here") is None
    assert crypto.unseal(key, 1, sealed, b"there") is None
    assert crypto.unseal(key, 1, sealed[:-1], b"here") is None
    assert crypto.unseal(key, 1, b"", b"here") is None


def test_a_signature_is_one_key_s_over_one_message() -> None:
    private, public = crypto.new_signing_key()
    signature = crypto.sign(private, b"text")
    assert crypto.signing_public(private) == public
    assert crypto.verifies(public, signature, b"text")
    assert not crypto.verifies(public, signature, b"test")
    assert not crypto.verifies(crypto.new_signing_key()[1], signature, b"text")
    assert not crypto.verifies(b"short", signature, b"text")
    assert not crypto.verifies(public, b"short", b"text")
