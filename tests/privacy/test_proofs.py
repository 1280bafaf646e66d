"""Proofs: canonical JSON, Merkle trees against the RFC's recursion and vectors, checkpoints that cannot be edited."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedrec.errors import LedgerError
from fedrec.privacy.proofs import (
    GENESIS,
    canonical_json,
    consistency_proof,
    inclusion_proof,
    merkle_root,
    read_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
"""The reference tree of certificate-transparency, merkletree/merkle_tree_test.cc."""

ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)

LINES = [f"line {n}".encode() for n in range(70)]


def hashed(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def tree(lines: Sequence[bytes]) -> bytes:
    return tree_of(tuple(lines))


@cache
def tree_of(lines: tuple[bytes, ...]) -> bytes:
    """MTH of RFC 6962, section 2.1, as written there."""
    if len(lines) <= 1:
        return hashed(b"\x00", lines[0]) if lines else hashed()
    k = split(len(lines))
    return hashed(b"\x01", tree(lines[:k]), tree(lines[k:]))


def path(m: int, lines: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(lines) == 1:
        return []
    k = split(len(lines))
    if m < k:
        return [*path(m, lines[:k]), tree(lines[k:])]
    return [*path(m - k, lines[k:]), tree(lines[:k])]


def subproof(m: int, lines: Sequence[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if m == len(lines):
        return [] if whole else [tree(lines)]
    k = split(len(lines))
    if m <= k:
        return [*subproof(m, lines[:k], whole), tree(lines[k:])]
    return [*subproof(m - k, lines[k:], False), tree(lines[:k])]


def test_the_reference_tree_has_its_published_roots() -> None:
    assert [merkle_root(LEAVES[:n]).hex() for n in range(1, 9)] == list(ROOTS)
    assert merkle_root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_reference_tree_has_its_published_proofs() -> None:
    assert [node.hex() for node in inclusion_proof(LEAVES, 0)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]
    assert [node.hex() for node in consistency_proof(LEAVES, 1)] == [node.hex() for node in inclusion_proof(LEAVES, 0)]
    assert [node.hex() for node in consistency_proof(LEAVES, 6)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", range(1, 71))
def test_every_proof_of_every_size_is_the_rfcs_and_verifies(size: int) -> None:
    lines = LINES[:size]
    root = merkle_root(lines)
    assert root == tree(lines)
    for index in range(size):
        proof = inclusion_proof(lines, index)
        assert list(proof) == path(index, lines)
        verify_inclusion(lines[index], index, size, proof, root)
    for old in range(1, size + 1):
        proof = consistency_proof(lines, old)
        assert list(proof) == subproof(old, lines, True)
        verify_consistency(old, tree(lines[:old]), size, root, proof)


indices = st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@given(indices, st.data())
def test_an_inclusion_proof_shows_nothing_else(where: tuple[int, int], data: st.DataObject) -> None:
    size, index = where
    lines = LINES[:size]
    proof, root = list(inclusion_proof(lines, index)), merkle_root(lines)
    other = data.draw(st.integers(0, 69))
    wrong: list[tuple[bytes, int, list[bytes]]] = [(b"another", index, proof), (lines[index], index, [*proof, root])]
    if other != index:
        wrong.append((lines[index], other, proof))
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong += [(lines[index], index, proof[:at] + proof[at + 1 :])]
        wrong += [(lines[index], index, [*proof[:at], hashed(proof[at]), *proof[at + 1 :]])]
    for line, place, shown in wrong:
        with pytest.raises(LedgerError, match="does not show line"):
            verify_inclusion(line, place, size, shown, root)
    with pytest.raises(LedgerError):
        verify_inclusion(lines[index], index, size, proof, hashed(root))


@given(indices, st.data())
def test_a_consistency_proof_shows_nothing_else(where: tuple[int, int], data: st.DataObject) -> None:
    size, old = where[0], where[1] + 1
    lines = LINES[:size]
    proof, roots = list(consistency_proof(lines, old)), (tree(lines[:old]), tree(lines))
    wrong = [(old, hashed(roots[0]), proof, roots[1]), (old, roots[0], [*proof, b"x" * 32], roots[1])]
    wrong += [(old, roots[0], proof, hashed(roots[1])), (0, roots[0], proof, roots[1])]
    wrong += [(size + 1, roots[0], proof, roots[1])]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        wrong += [(old, roots[0], [*proof[:at], hashed(proof[at]), *proof[at + 1 :]], roots[1])]
        wrong += [(old, roots[0], proof[:at] + proof[at + 1 :], roots[1])]
    for first, before, shown, after in wrong:
        with pytest.raises(LedgerError, match="does not show that the tree"):
            verify_consistency(first, before, size, after, shown)


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    before, after = LINES[:5], [LINES[0], b"forged", *LINES[2:9]]
    with pytest.raises(LedgerError):
        verify_consistency(5, merkle_root(before), 9, merkle_root(after), consistency_proof(after, 5))


@pytest.mark.parametrize(("size", "index"), [(0, 0), (3, 3), (3, -1)])
def test_proofs_of_what_is_not_there_are_refused(size: int, index: int) -> None:
    with pytest.raises(LedgerError, match="There is no line"):
        inclusion_proof(LINES[:size], index)
    with pytest.raises(LedgerError, match="does not continue one"):
        consistency_proof(LINES[:size], index + 1 if index == 3 else index)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcXYZ_09~\x00", max_size=4), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc", max_size=3), plain))
def test_canonical_json_gives_its_value_back_and_has_one_form(value: dict[str, Any]) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text
    assert canonical_json(json.loads(text)) == text


def test_canonical_json_is_rfc_8785s() -> None:
    """The string of RFC 8785, section 3.2.2: shortest escapes, everything else as it is."""
    value = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", "literals": [None, True, False], "b": {}}
    assert canonical_json(value) == (
        rb'{"b":{},"literals":[null,true,false],"string":"' + "€".encode() + rb"$\u000f\nA'B\"\\\\\"/" + b'"}'
    )


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, -(2**53), b"x", {1: 2}, {"ü": 1}, {1, 2}, object()])
def test_canonical_json_refuses_what_has_more_than_one_form(value: Any) -> None:
    with pytest.raises(LedgerError, match="ledger"):
        canonical_json({"inner": [value]})


def test_canonical_json_refuses_half_a_character() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        canonical_json({"a": "\ud800"})


# Checkpoints


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def signed(body: dict[str, Any], key: Ed25519PrivateKey) -> str:
    """A checkpoint of any content with a valid signature."""
    body = {**body, "key": base64.b64encode(raw(key)).decode()}
    return json.dumps({**body, "signature": base64.b64encode(key.sign(canonical_json(body))).decode()})


def test_a_checkpoint_holds_for_its_ledger_and_for_a_longer_one() -> None:
    key = Ed25519PrivateKey.generate()
    text = sign_checkpoint(LINES[:7], "r", key)
    assert text.encode() == canonical_json(json.loads(text)) + b"\n"
    for lines in (LINES[:7], LINES[:8], LINES):
        found = verify_checkpoint(text, lines, raw(key))
        assert (found.run, found.size, found.root) == ("r", 7, merkle_root(LINES[:7]).hex())


def test_a_checkpoint_survives_being_pasted() -> None:
    text = sign_checkpoint(LINES[:7], "r", Ed25519PrivateKey.generate())
    pasted = "\n  " + json.dumps(json.loads(text), indent=4).replace("\n", "\r\n") + "\n\n"
    assert verify_checkpoint(pasted, LINES) == verify_checkpoint(text, LINES)


def test_a_checkpoint_refuses_a_shorter_or_another_ledger() -> None:
    text = sign_checkpoint(LINES[:7], "r", Ed25519PrivateKey.generate())
    for lines in (LINES[:6], [*LINES[:6], b"{}"], LINES[6::-1], [b"x", *LINES]):
        with pytest.raises(LedgerError, match=r"has 6 lines where|does not hold the 7 lines"):
            verify_checkpoint(text, lines)
    with pytest.raises(LedgerError, match="has 0 lines where"):
        verify_checkpoint(text, [])


def test_with_a_trusted_key_another_signer_is_refused() -> None:
    one, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    text = sign_checkpoint(LINES, "r", one)
    verify_checkpoint(text, LINES)
    verify_checkpoint(text, LINES, raw(one))
    with pytest.raises(LedgerError, match="signed by another key"):
        verify_checkpoint(text, LINES, raw(other))


def test_every_edit_of_a_checkpoint_is_found() -> None:
    values = json.loads(sign_checkpoint(LINES[:7], "r", Ed25519PrivateKey.generate()))
    other = json.loads(sign_checkpoint(LINES[:7], "r", Ed25519PrivateKey.generate()))
    edits = {"head": GENESIS, "root": GENESIS, "size": 6, "version": 1, "run": "s", "type": "x"}
    edits |= {name: other[name] for name in ("key", "signature")}
    assert set(edits) == set(values)
    for name, value in edits.items():
        without = {key: old for key, old in values.items() if key != name}
        for edited in ({**values, name: value}, {**values, name: None}, without, {**values, "more": 1}):
            with pytest.raises(LedgerError, match="signature is not valid"):
                read_checkpoint(json.dumps(edited))
    for text in ("", "[]", "7", '"x"', "null", "{}", "[" * 100_000):
        with pytest.raises(LedgerError, match="signature is not valid"):
            read_checkpoint(text)


@pytest.mark.parametrize("wrong", [{"head": GENESIS}, {"size": -1}, {"size": "7"}, {"size": None}, {"root": 1}])
def test_a_signature_does_not_make_a_wrong_statement_right(wrong: dict[str, Any]) -> None:
    key = Ed25519PrivateKey.generate()
    right = json.loads(sign_checkpoint(LINES[:7], "r", key))
    right = {name: value for name, value in right.items() if name not in ("key", "signature")}
    verify_checkpoint(signed(right, key), LINES)
    with pytest.raises(LedgerError):
        verify_checkpoint(signed({**right, **wrong}, key), LINES)


@given(st.data())
def test_any_other_character_of_a_checkpoint_is_found(data: st.DataObject) -> None:
    text = CHECKPOINT
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.characters(codec="utf-8"))
    edited = text[:at] + new + text[at + 1 :]
    try:
        same = json.loads(edited) == json.loads(text)
    except ValueError:
        same = False
    if not same:
        with pytest.raises(LedgerError):
            verify_checkpoint(edited, LINES)


def test_a_signature_has_one_form() -> None:
    """The last character of 64 bytes in base64 has four spare bits, which a decoder ignores."""
    values = json.loads(CHECKPOINT)
    twin = values["signature"][:-3] + chr(ord(values["signature"][-3]) + 1) + "=="
    assert base64.b64decode(twin) == base64.b64decode(values["signature"])
    with pytest.raises(LedgerError, match="signature is not valid"):
        read_checkpoint(json.dumps({**values, "signature": twin}))


CHECKPOINT = sign_checkpoint(LINES, "r", Ed25519PrivateKey.from_private_bytes(b"k" * 32)).strip()
