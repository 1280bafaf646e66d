"""What every test gets: a fedrec home of its own, and a tiny experiment that needs no download."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedrec.config import Experiment, parse

TINY = """
name = "tiny"

[data]
name = "synthetic"
n_users = 80
n_items = 60

[model]
name = "mf"
start = "random"
dimension = 4

[federation]
rounds = 3

[privacy]
epsilon = 8.0
noise_multiplier = 2.5 # given, since calibrating it takes a second

[evaluation]
sampled = 0
baselines = false
"""


def pytest_configure() -> None:
    """A shell starts its background jobs with Ctrl-C ignored, and children inherit that; the tests press it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that live longer than a test must not reach the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREC_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a fedrec home of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FEDREC_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Experiment]:
    """Makes the tiny experiment, with ``key=value`` overrides as of ``--set``."""

    def make(*overrides: str) -> Experiment:
        return parse(TINY, "tiny", overrides)

    return make
