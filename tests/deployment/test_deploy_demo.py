"""The demonstration is also a test: it ends with an error if anything is not as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulations.deploy_demo import ROUNDS, play


@pytest.mark.slow
def test_the_demonstration_is_true(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    play(tmp_path)
    told = capfd.readouterr().out
    assert f"{ROUNDS} rounds are done" in told
    assert "kill -9" in told
    assert "above epsilon_total" in told
    assert "offline, Ada's device recommends" in told
