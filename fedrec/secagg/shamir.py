"""Shamir's secret sharing (1979, "How to share a secret") of 32-byte secrets over a prime field above 2**256."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

PRIME = 2**256 + 297
"""The smallest prime above 2**256: every 32-byte string is an element."""

SHARE_BYTES = 33


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """``count`` shares; any ``threshold`` of them open the secret, and fewer tell nothing about it.

    Args:
        secret: 32 bytes.
        threshold: 1 to count.
        count: below 2**16.
    """
    # 48 random bytes modulo a 257-bit prime are uniform up to 2**-127.
    noise = os.urandom(48 * (threshold - 1))
    coefficients = [int.from_bytes(noise[i : i + 48]) % PRIME for i in range(0, len(noise), 48)]
    coefficients.append(int.from_bytes(secret))
    even, odd = coefficients[::-1][::2][::-1], coefficients[::-1][1::2][::-1]
    values = []
    for x in range(1, (count + 1) // 2 + 1):  # f(x) = E(x^2) + x O(x^2) gives f(-x) for one more subtraction
        a, b = _horner(even, x * x), x * _horner(odd, x * x)
        values += [(a + b) % PRIME, (a - b) % PRIME]
    return [value.to_bytes(SHARE_BYTES) for value in values[:count]]


def combine(numbers: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """The secret of as many shares as its threshold.

    Args:
        numbers: which shares these are, counted from 0; distinct.
        shares: the shares.

    Raises:
        ValueError: if what comes out is no 32-byte secret: some share is wrong.
    """
    weights = _weights(tuple((i // 2 + 1) * (-1) ** i for i in numbers))
    value = sum(w * int.from_bytes(share) for w, share in zip(weights, shares, strict=True)) % PRIME
    if value >> 256:
        raise ValueError("The shares do not belong together.")
    return value.to_bytes(32)


def _horner(coefficients: Sequence[int], x: int) -> int:
    """The polynomial's value, not reduced: x is small, so one reduction at the end is cheaper than many."""
    value = 0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value


@lru_cache(maxsize=1024)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at zero: the product over the others j of x_j / (x_j - x_i)."""
    whole = 1
    for x in points:
        whole = whole * x % PRIME
    bottoms = []
    for x in points:
        bottom = x
        for other in points:
            if other != x:
                bottom *= other - x
        bottoms.append(bottom % PRIME)
    return tuple(whole * inverse % PRIME for inverse in _inverses(bottoms))


def _inverses(values: Sequence[int]) -> list[int]:
    """The inverses of many elements for the price of one (Montgomery's trick)."""
    products = [1]
    for value in values:
        products.append(products[-1] * value % PRIME)
    inverse = pow(products[-1], -1, PRIME)
    found = []
    for value, before in zip(reversed(values), reversed(products[:-1]), strict=True):
        found.append(inverse * before % PRIME)
        inverse = inverse * value % PRIME
    return found[::-1]
