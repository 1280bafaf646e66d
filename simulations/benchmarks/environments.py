"""Virtual environments of peers that fedrec cannot share one with, built once under ``$FEDREC_HOME/bench``."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from fedrec.data.home import home
from simulations.benchmarks.rows import BenchmarkError

REQUIREMENTS = Path(__file__).parent / "peers" / "requirements"


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, which ``peers/requirements/NAME.txt`` pins.

    Raises:
        BenchmarkError: if pip cannot build it.
    """
    pinned = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(pinned.read_bytes()).hexdigest()[:12]
    place = home() / "bench" / f"{name}-{digest}"
    python, finished = place / "bin" / "python", place / "finished"
    if finished.exists():
        return python
    print(f"building the environment of {name} in {place}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)  # what an interrupted build left
    venv.create(place, with_pip=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]
    if subprocess.run([*install, str(pinned)], stdout=sys.stderr, check=False).returncode:
        raise BenchmarkError(f"pip could not install {pinned.name}, see its messages above; mend that and try again.")
    finished.touch()
    return python
