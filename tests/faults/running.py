"""Runs the processes of these tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fedrec

ROOT = Path(fedrec.__file__).parents[1]


def run(module: str, *words: str, point: str = "") -> subprocess.CompletedProcess[str]:
    """A module of this folder in a process of its own, which dies at a fault point."""
    environment = {**os.environ, "FEDREC_FAULT_POINT": point, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"tests.faults.{module}", *words]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
