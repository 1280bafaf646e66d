"""Streams of words: what a device draws never repeats, not even across a fork, and what a simulation draws does."""

from __future__ import annotations

import copy
import os

import numpy as np
import pytest
from scipy import stats

from fedrec.privacy.stream import SecureWords, SeededWords, Words
from fedrec.randomness import Key, Lane


def seeded(seed: int, part: int = 0) -> SeededWords:
    return SeededWords(Key(seed).generator(Lane.NOISE, part))


def test_the_keystream_is_that_of_rfc_8439(monkeypatch: pytest.MonkeyPatch) -> None:
    """Appendix A.1, test vectors 1 and 2: the first two blocks under a zero key and a zero nonce."""
    monkeypatch.setattr(os, "urandom", bytes)
    assert SecureWords().words(16).tobytes() == bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )


@pytest.mark.parametrize("words", [SecureWords(), seeded(3)], ids=["secure", "seeded"])
def test_bytes_are_uniform(words: Words) -> None:
    """Chi-square over 800,000 bytes; false alarm 1e-6."""
    drawn = words.words(100_000)
    assert drawn.dtype == np.uint64
    assert stats.chisquare(np.bincount(drawn.view(np.uint8), minlength=256)).pvalue > 1e-6


@pytest.mark.parametrize("n", [0, 1, 2**17 - 1, 2**17, 2**17 + 1, 3 * 2**17 + 5])
def test_every_length_is_served_and_no_word_comes_twice(n: int) -> None:
    """Words of one call span several keys; a repeated word has probability below 1e-8."""
    drawn = SecureWords().words(n)
    assert len(np.unique(drawn)) == len(drawn) == n


def test_two_calls_differ() -> None:
    words = SecureWords()
    assert set(words.words(100)).isdisjoint(words.words(100))


def test_a_copy_does_not_repeat_the_original() -> None:
    words = SecureWords()
    assert set(copy.deepcopy(words).words(100)).isdisjoint(words.words(100))


def test_a_forked_child_and_its_child_do_not_repeat_the_parent() -> None:
    words = SecureWords()
    words.words(10)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  another process
        grandchild = os.fork()
        os.write(write, words.words(100).tobytes())
        if grandchild:
            os.waitpid(grandchild, 0)
        os._exit(0)
    os.close(write)
    mine = words.words(100)
    _, status = os.waitpid(child, 0)
    theirs = b""
    while block := os.read(read, 4096):
        theirs += block
    os.close(read)
    assert status == 0
    everyone = np.concatenate([mine, np.frombuffer(theirs, np.uint64)])
    assert len(np.unique(everyone)) == len(everyone) == 300


def test_seeded_words_repeat_and_parts_differ() -> None:
    np.testing.assert_array_equal(seeded(1).words(50), seeded(1).words(50))
    assert set(seeded(1).words(50)).isdisjoint(seeded(1, part=1).words(50))
