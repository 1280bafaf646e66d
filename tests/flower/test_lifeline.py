"""A child ends with its parent, also with one that nobody has collected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

CHILD = """
import sys, time
from fedrec.flower import lifeline

lifeline._PATIENCE_S = 0.3
if sys.argv[2] == "deaf":
    import signal
    signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
lifeline.end_with(int(sys.argv[1]))
print("alive", flush=True)
for _ in range(100):
    time.sleep(0.1)
print("outlived", flush=True)
"""
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]])
time.sleep(60)
"""


@pytest.fixture
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process with one child, which writes into the parent's output."""
    command = [sys.executable, "-c", PARENT, CHILD, request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize(("parent", "said"), [("usual", []), ("deaf", ["interrupted\n"])], indirect=["parent"])
def test_a_killed_parent_takes_its_child_along_before_anybody_has_collected_it(
    parent: subprocess.Popen[str], said: list[str]
) -> None:
    assert parent.stdout is not None
    assert parent.stdout.readline() == "alive\n"
    os.kill(parent.pid, signal.SIGKILL)  # and not waited for: its number stays taken
    assert parent.stdout.readlines() == said  # ends when the child has
