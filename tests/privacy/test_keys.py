"""Keys: made once, for the owner's eyes only; and names that only their owner can recompute."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from fedrec.errors import LedgerError, UsageError
from fedrec.privacy.keys import pseudonym, public_key, signing_key


def test_the_key_is_made_once_and_reused(tmp_path: Path) -> None:
    first, second = signing_key(tmp_path), signing_key(tmp_path)
    assert first.private_bytes_raw() == second.private_bytes_raw()
    assert signing_key(tmp_path / "elsewhere").private_bytes_raw() != first.private_bytes_raw()


def test_only_the_owner_can_read_the_key(tmp_path: Path) -> None:
    signing_key(tmp_path)
    file = tmp_path / "keys" / "ledger.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [entry.name for entry in file.parent.iterdir()] == ["ledger.key"]


def test_a_file_that_holds_no_key_is_refused_by_name(tmp_path: Path) -> None:
    signing_key(tmp_path)
    file = tmp_path / "keys" / "ledger.key"
    file.write_bytes(b"not a key")
    with pytest.raises(LedgerError, match=r"ledger\.key"):
        signing_key(tmp_path)


def test_a_public_key_is_read_from_base64_or_a_file(tmp_path: Path) -> None:
    key = signing_key(tmp_path).public_key().public_bytes_raw()
    text = base64.b64encode(key).decode()
    (tmp_path / "key.txt").write_text(text + "\n")
    assert public_key(text) == public_key(str(tmp_path / "key.txt")) == key


@pytest.mark.parametrize("given", ["", "x", "AAAA", "no such file", "é" * 43 + "=", "/"])
def test_what_is_no_public_key_is_refused(given: str) -> None:
    with pytest.raises(UsageError, match="is not a public key: give the base64 of 32 bytes"):
        public_key(given)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    signing_key(tmp_path)
    with pytest.raises(UsageError, match="is not a public key"):
        public_key(str(tmp_path / "keys" / "ledger.key"))


def test_a_pseudonym_is_the_hmac_of_the_run_under_the_clients_secret() -> None:
    """RFC 4231, test case 1."""
    assert pseudonym(b"\x0b" * 20, "Hi There") == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"


def test_pseudonyms_differ_between_runs_and_clients() -> None:
    secrets, runs = [bytes([n]) * 16 for n in range(10)], [f"run {n}" for n in range(10)]
    assert len({pseudonym(secret, run) for secret in secrets for run in runs}) == 100


def test_a_secret_that_can_be_guessed_is_refused() -> None:
    with pytest.raises(LedgerError, match="at least 16 random bytes, not 15"):
        pseudonym(b"x" * 15, "run")
