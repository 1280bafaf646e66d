"""Worlds to break: made once, copied for each case."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.running import run
from tests.faults.world import World


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Before any training."""
    return World.create(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def trained(made: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """After one round."""
    copy = World(tmp_path_factory.mktemp("trained") / "world")
    shutil.copytree(made.root, copy.root)
    done = run("training", str(copy.root), "1")
    assert done.returncode == 0, done.stderr
    return copy


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[World], World]:
    """Makes a copy that a test may break."""

    def copy(world: World) -> World:
        return World(shutil.copytree(world.root, tmp_path / "world"))

    return copy
