"""A finished run, and copies of it to be changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedrec.data.home import home
from fedrec.privacy.keys import signing_key
from fedrec.privacy.proofs import read_checkpoint
from tests.audit.folders import SETTINGS, Tiny, published, run_of


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Path:
    """A finished run with integer noise, which nothing may change."""
    return run_of(tiny(*SETTINGS), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def key(run: Path) -> Ed25519PrivateKey:
    """What signed it: the key in the home of the session's fixtures."""
    found = signing_key(home())
    assert read_checkpoint(published(run), found.public_key().public_bytes_raw())
    return found


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.fixture(scope="session")
def scratch(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, whose ledger is written anew by every example of a property."""
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("runs") / "scratch"))
