"""Fault points: all listed, none armed by accident, and death where one is."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedrec
from fedrec.faults import POINTS

SOURCES = sorted(Path(fedrec.__file__).parent.rglob("*.py"))


def points() -> set[str]:
    """The names in every call of ``reach`` in the library that takes a text."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reach":
                found |= {
                    one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)
                }
    return found


def test_every_point_of_the_library_is_listed() -> None:
    assert points() == POINTS


@pytest.mark.parametrize(("armed", "status"), [("store.after-commit", -signal.SIGKILL), ("", 0), ("elsewhere", 0)])
def test_a_process_dies_at_the_point_that_is_armed_and_nowhere_else(armed: str, status: int) -> None:
    script = "from fedrec.faults import reach; reach('store.before-commit'); reach('store.after-commit')"
    environment = {**os.environ, "FEDREC_FAULT_POINT": armed}
    assert subprocess.run([sys.executable, "-c", script], env=environment, check=False).returncode == status
