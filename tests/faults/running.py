"""Runs the processes of these tests: each is forked from one that has imported all it needs and does nothing else, so
that it dies alone, shares nothing that is written, and costs no imports.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import fedrec
from fedrec import faults

ROOT = Path(fedrec.__file__).parents[1]
MODULES = ("recording", "restoring", "training")
LONGEST_S = 120.0


def run(module: str, *words: str, point: str = "") -> subprocess.CompletedProcess[str]:
    """``main(*words)`` of a module of this folder in a process of its own, which dies at a fault point."""
    forker = _forker()
    assert forker.stdin is not None
    assert forker.stdout is not None
    forker.stdin.write(json.dumps([module, words, point]) + "\n")
    forker.stdin.flush()
    code, out, err = json.loads(forker.stdout.readline())
    assert code is not None, f"{module} {words} has not ended after {LONGEST_S:g} s"
    return subprocess.CompletedProcess((module, *words), code, out, err)


@cache
def _forker() -> subprocess.Popen[str]:
    """The process that forks, which ends with this one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.running"],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.communicate)
    return process


def main() -> None:
    """Fork a process for each line of standard input, and say how it has ended (null if it had to be
    ended) and what it has printed.
    """
    for module in MODULES:
        import_module(f"tests.faults.{module}")
    _imported_when_used()
    fork = multiprocessing.get_context("fork")
    for line in sys.stdin:
        pipes = os.pipe(), os.pipe()
        process = fork.Process(target=_forked, args=(*json.loads(line), [end for _, end in pipes]))
        process.start()
        for _, end in pipes:
            os.close(end)
        process.join(LONGEST_S)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        print(json.dumps([code, *(_read(end) for end, _ in pipes)]), flush=True)


def _read(end: int) -> str:
    """What was written into a pipe, which holds more than any of these processes says."""
    with open(end) as file:
        return file.read()


def _imported_when_used() -> None:
    """What the library imports late."""
    from fedrec.config import resolve
    from tests.faults.world import EXPERIMENT

    resolve(EXPERIMENT)
    for name in ("fedrec.data.sources.devices", "safetensors.numpy", "dp_accounting", "jinja2"):
        import_module(name)


def _forked(module: str, words: list[str], point: str, ends: list[int]) -> None:
    for number, end in enumerate(ends, start=1):
        os.dup2(end, number)
    faults._ARMED = point or None  # as in a process that was started with it in its environment
    import_module(f"tests.faults.{module}").main(*words)


if __name__ == "__main__":
    main()
