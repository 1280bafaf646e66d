from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a fedrec home of its own."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FEDREC_HOME", str(folder))
    return folder
