"""Proofs: canonical JSON, the hash chain, Merkle trees and signed checkpoints. What a verifier needs, and no more.

The tree and its proofs are those of RFC 6962, section 2.1; they are verified as RFC 9162, section 2.1, says. Where many
lines are hashed, a proof takes time in proportion to them; verifying one takes their logarithm.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fedrec.errors import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Record = Mapping[str, Any]
"""A line of a ledger, parsed."""

GENESIS = "0" * 64
"""What the first line of a chain carries in place of a hash."""

_EXACT = 2**53 - 1
"""RFC 8785 numbers are double-precision: larger integers are not exact."""


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """RFC 8785 for what a ledger holds: strings, integers, booleans, null, lists and objects with ASCII keys.

    Raises:
        LedgerError: for anything else; a decimal is a string here, because it has many forms as a number.
    """
    _check(value)
    return _encode(value).encode()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by name for canonical JSON, floats by their ``repr``, which says them exactly."""
    return {name: repr(value) if isinstance(value, float) else value for name, value in values.items()}


def _check(value: Any) -> None:
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or not key.isascii():
                raise LedgerError(f"A ledger's keys are ASCII, and {key!r} is not.")
            if type(inner) is not str:
                _check(inner)
    elif kind is list or kind is tuple:
        for inner in value:
            _check(inner)
    elif kind not in (str, bool, type(None)) and not (kind is int and abs(value) <= _EXACT):
        raise LedgerError(f"A ledger cannot hold {value!r}; write a decimal as a string.")


# The chain


def read_chain(lines: Sequence[bytes], name: str = "ledger.jsonl") -> tuple[dict[int, Record], list[str]]:
    """The readable lines of a ledger by their number, from 1, and a sentence for each that breaks the chain."""
    records: dict[int, Record] = {}
    faults: list[str] = []
    prev = GENESIS
    for number, line in enumerate(lines, start=1):
        fault = ""
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or canonical_json(record) != line:
                fault = "not in canonical form; the ledger was edited"
            elif record.get("prev") != prev:
                fault = "does not follow the line before it; the ledger was edited"
            if isinstance(record, dict):
                records[number] = record
        except LedgerError:
            fault = "not in canonical form; the ledger was edited"
        except (ValueError, RecursionError):
            fault = "not valid JSON; the ledger is damaged"
        if fault:
            faults.append(f"{name}, line {number}: {fault}.")
        prev = hashlib.sha256(line).hexdigest()
    return records, faults


def verify_chain(lines: Sequence[bytes], name: str = "ledger.jsonl") -> list[Record]:
    """The records of a ledger whose every line carries the hash of the line before.

    Raises:
        LedgerError: naming the first line that is damaged, reordered, dropped or inserted.
    """
    records, faults = read_chain(lines, name)
    if faults:
        raise LedgerError(faults[0])
    return list(records.values())


# The tree


def merkle_root(lines: Sequence[bytes]) -> bytes:
    """The Merkle tree hash of RFC 6962, section 2.1."""
    return levels(lines)[-1][0] if lines else hashlib.sha256(b"").digest()


def inclusion_proof(lines: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The path from a line, counted from 0, to the root (RFC 6962, section 2.1.1).

    Raises:
        LedgerError: if there is no such line.
    """
    if not 0 <= index < len(lines):
        raise LedgerError(f"There is no line {index} in a tree of {len(lines)}.")
    return path_to_root(levels(lines), index)


def path_to_root(tree: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    """An inclusion proof read off a tree's `levels`."""
    path = []
    for level in tree[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index >>= 1
    return tuple(path)


def consistency_proof(lines: Sequence[bytes], size: int) -> tuple[bytes, ...]:
    """What shows that the first ``size`` lines came first and are unchanged (RFC 6962, section 2.1.2).

    Raises:
        LedgerError: if there are not so many lines.
    """
    if not 0 < size <= len(lines):
        raise LedgerError(f"A tree of {len(lines)} lines does not continue one of {size}.")
    if size == len(lines):
        return ()
    tree = levels(lines)
    height, node = 0, size - 1
    while node & 1:  # up to the largest whole subtree that ends the older tree
        height, node = height + 1, node >> 1
    path = [tree[height][node]] if node else []  # a power of two is that subtree: its root is known already
    for level in tree[height:-1]:
        if node ^ 1 < len(level):
            path.append(level[node ^ 1])
        node >>= 1
    return tuple(path)


def verify_inclusion(line: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a line stands at an index of the tree of this size and root (RFC 9162, section 2.1.3.2).

    Raises:
        LedgerError: if the proof does not show it.
    """
    node, last, found = index, size - 1, _leaf(line)
    sound = 0 <= index < size
    for sibling in proof:
        sound = sound and last > 0
        if node & 1 or node == last:
            found = _node(sibling, found)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            found = _node(found, sibling)
        node, last = node >> 1, last >> 1
    if not sound or last != 0 or found != root:
        raise LedgerError(f"The proof does not show line {index} in the tree of {size} with this root.")


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that one tree continues another (RFC 9162, section 2.1.4.2).

    Raises:
        LedgerError: if the proof does not show it.
    """
    if old_size == size:
        sound = size > 0 and old_root == root and not proof
    else:
        sound = 0 < old_size < size and _continues(old_size, old_root, size, root, proof)
    if not sound:
        raise LedgerError(f"The proof does not show that the tree of {size} continues the one of {old_size}.")


def _continues(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if len(path) < 2:
        return False
    node, last = old_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if node & 1 or node == last:
            old, new = _node(sibling, old), _node(sibling, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = _node(new, sibling)
        node, last = node >> 1, last >> 1
    return old == old_root and new == root and last == 0


def levels(lines: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes of at least one line, then of pairs, up to the root; an odd last one is carried up as it is."""
    tree = [[_leaf(line) for line in lines]]
    while len(below := tree[-1]) > 1:  # this is the RFC's recursive split at the largest power of two
        pairs = [_node(a, b) for a, b in zip(below[::2], below[1::2], strict=False)]
        tree.append(pairs + below[len(pairs) * 2 :])
    return tree


def _leaf(line: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + line).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


# Checkpoints


@dataclass(frozen=True)
class Checkpoint:
    """A statement of what a ledger holds, to be published where others can compare it.

    Attributes:
        run: the run's id.
        size: lines.
        head: SHA-256 of the last of them, in hex.
        root: the Merkle root, in hex.
        key: the signer's Ed25519 public key, base64.
        type, version: what it is.
    """

    run: str
    size: int
    head: str
    root: str
    key: str
    type: str = "fedrec ledger checkpoint"
    version: int = 2


def sign_checkpoint(lines: Sequence[bytes], run: str, key: Ed25519PrivateKey) -> str:
    """A signed checkpoint as one line of canonical JSON; everything in it but the signature is signed."""
    head, root = hashlib.sha256(lines[-1]).hexdigest(), merkle_root(lines).hex()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    body = asdict(Checkpoint(run, len(lines), head, root, public))
    signature = base64.b64encode(key.sign(canonical_json(body))).decode()
    return canonical_json({**body, "signature": signature}).decode() + "\n"


def read_checkpoint(text: str, trusted_key: bytes | None = None, name: str = "ledger.checkpoint") -> Checkpoint:
    """A checkpoint whose signature is valid; white space around its parts does not matter.

    Args:
        text: as it was published.
        trusted_key: the only Ed25519 public key to accept, 32 bytes; None accepts the one inside, which shows that the
            text is whole and not who signed it.
        name: for messages.

    Raises:
        LedgerError: if it is no checkpoint, was edited, or another key signed it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        body = json.loads(text)
        encoded = body.pop("signature")
        signature = base64.b64decode(encoded)
        found = Checkpoint(**body)
        kind = (found.type, found.version, type(found.size), base64.b64encode(signature).decode())
        if kind != (Checkpoint.type, Checkpoint.version, int, encoded):  # base64 has spare bits: one form counts
            raise LedgerError("another form")
        key = base64.b64decode(found.key, validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, canonical_json(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidSignature) as error:
        raise LedgerError(f"{name}: its signature is not valid; it is damaged or was edited.") from error
    if trusted_key is not None and key != trusted_key:
        raise LedgerError(f"{name}: it is signed by another key, {found.key}, than the trusted one.")
    return found


def verify_checkpoint(
    text: str, lines: Sequence[bytes], trusted_key: bytes | None = None, name: str = "ledger.checkpoint"
) -> Checkpoint:
    """Check a signed checkpoint against a ledger's lines, of which it may know the first ones alone.

    Raises:
        LedgerError: as `read_checkpoint`, and if the ledger does not begin with the lines that were signed.
    """
    found = read_checkpoint(text, trusted_key, name)
    if not 0 < found.size <= len(lines):
        raise LedgerError(f"ledger.jsonl has {len(lines)} lines where {name} signed {found.size}.")
    known = lines[: found.size]
    if merkle_root(known).hex() != found.root or hashlib.sha256(known[-1]).hexdigest() != found.head:
        raise LedgerError(f"ledger.jsonl does not hold the {found.size} lines that {name} signed.")
    return found
