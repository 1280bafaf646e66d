"""Shares: any t open the secret, fewer fit every secret alike."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.secagg.shamir import PRIME, SHARE_BYTES, combine, split

secrets = st.binary(min_size=32, max_size=32)


@given(secrets, st.integers(1, 60), st.data())
def test_any_t_shares_open_the_secret(secret: bytes, count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = split(secret, threshold, count)
    assert [len(share) for share in shares] == [SHARE_BYTES] * count
    numbers = data.draw(st.permutations(range(count)))[:threshold]
    assert combine(numbers, [shares[i] for i in numbers]) == secret


@given(secrets, secrets, st.integers(2, 30))
def test_one_share_less_fits_any_other_secret_as_well(secret: bytes, other: bytes, threshold: int) -> None:
    """The missing share that would make it the other secret exists, so those in hand tell nothing."""
    shares = split(secret, threshold, threshold)
    weights = [_weight(i, threshold) for i in range(threshold)]
    known = sum(w * int.from_bytes(share) for w, share in zip(weights[:-1], shares[:-1], strict=True))
    missing = (int.from_bytes(other) - known) * pow(weights[-1], -1, PRIME) % PRIME
    assert combine(range(threshold), [*shares[:-1], missing.to_bytes(SHARE_BYTES)]) == other


def _weight(i: int, threshold: int) -> int:
    points = [(j // 2 + 1) * (-1) ** j for j in range(threshold)]
    weight = 1
    for j, x in enumerate(points):
        if j != i:
            weight = weight * x * pow(x - points[i], -1, PRIME) % PRIME
    return weight


def test_shares_below_the_threshold_are_fresh_each_time() -> None:
    assert not set(split(bytes(32), 2, 5)) & set(split(bytes(32), 2, 5))


def test_a_wrong_share_never_opens_the_secret() -> None:
    secret = bytes(range(32))
    shares = split(secret, 3, 5)
    shares[1] = bytes(32) + b"\x01"
    with contextlib.suppress(ValueError):  # it may also be no secret at all
        assert combine([0, 1, 2], shares[:3]) != secret


def test_a_value_that_is_no_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        combine([0], [(2**256).to_bytes(SHARE_BYTES)])


def test_the_field_is_a_prime_one_above_every_secret() -> None:
    """Miller and Rabin's test with 64 bases: a composite passes with probability at most 4**-64."""
    assert PRIME > 2**256
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    bases = random.Random(1)  # noqa: S311 # the bases are no secret
    for _ in range(64):
        x = pow(bases.randrange(2, PRIME - 1), odd, PRIME)
        powers = [pow(x, 2**i, PRIME) for i in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers
