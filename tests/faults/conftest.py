"""Worlds to break: made once, copied for each case."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.running import run
from tests.faults.world import World

MEMORY = Path("/dev/shm")  # noqa: S108 - for folders of random names
"""Where Linux keeps files in memory: what a killed process has written stays there as it does on a disk, which would be
waited for thousands of times.
"""


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """For all worlds."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as made:
        yield Path(made)


@pytest.fixture(scope="session")
def made(folder: Path) -> World:
    """Before any training."""
    return World.create(folder / "made")


@pytest.fixture(scope="session")
def trained(made: World, folder: Path) -> World:
    """After one round."""
    copy = World(shutil.copytree(made.root, folder / "trained"))
    done = run("training", str(copy.root), "1")
    assert done.returncode == 0, done.stderr
    return copy


@pytest.fixture
def copied(folder: Path) -> Iterator[Callable[[World], World]]:
    """Makes a copy that a test may break."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        yield lambda world: World(shutil.copytree(world.root, Path(place) / "world"))
