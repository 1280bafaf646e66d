"""The house: imports point down only, heavy libraries stay where they belong, and a phone loads little."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

import fedrec

ROOT = Path(fedrec.__file__).parent

LAYERS = (
    ("errors", "faults"),
    ("registry", "processes", "threads"),
    ("randomness",),
    ("release",),
    ("contribution",),
    ("sections",),
    ("config",),
    ("data",),
    ("privacy",),
    ("training", "secagg"),
    ("models",),
    ("evaluation",),
    ("federation",),
    ("agreements",),
    ("device",),
    ("reporting",),
    ("engines",),
    ("audit",),
    ("deployment",),
    ("flower",),
    ("cli",),
)
"""From low to high; packages of one layer do not know each other."""

LEVEL = {unit: level for level, units in enumerate(LAYERS) for unit in units}

CONFINED = {"flwr": "flower/", "dp_accounting": "privacy/accounting.py"}
"""The one place that may import a library."""

MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(source: str, path: str) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; of ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["fedrec", *path.split("/")[:-1]]
                base = ".".join([*package[: len(package) + 1 - node.level], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def unit_of(path: str) -> str:
    """The layer's name of a file: its package, or itself at the top."""
    return path.split("/", maxsplit=1)[0].removesuffix(".py")


def wrong(source: str, path: str) -> list[str]:
    """The imports of a file that point up, or sideways to another package."""
    unit = unit_of(path)
    found = []
    for module in imports(source, path):
        parts = module.split(".")
        if parts[0] != "fedrec" or len(parts) == 1 or parts[1] == unit:
            continue
        target = parts[1]
        if target not in LEVEL and not (ROOT / target).with_suffix(".py").exists() and not (ROOT / target).is_dir():
            continue  # a name such as fedrec.__version__
        if target not in LEVEL or LEVEL[target] >= LEVEL[unit]:
            found.append(f"fedrec/{path} imports {module}")
    return found


def test_every_module_has_a_layer() -> None:
    assert {unit_of(path) for path in MODULES} - {"__init__"} == set(LEVEL)


def test_imports_point_down() -> None:
    everything = [line for path in MODULES for line in wrong((ROOT / path).read_text(), path) if path != "__init__.py"]
    assert not everything


def test_the_package_itself_imports_nothing() -> None:
    assert not list(imports((ROOT / "__init__.py").read_text(), "__init__.py"))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("data/home.py", "def f():\n    from fedrec.models.base import build"),
        ("models/base.py", "import fedrec.federation.round as r"),
        ("models/base.py", "from fedrec import cli"),
        ("privacy/ledger.py", "from fedrec.models import base"),
        ("privacy/ledger.py", "from fedrec.evaluation import metrics"),
        ("errors.py", "if 1:\n    import fedrec.registry"),
        ("training/local.py", "from ..models import base"),
        ("engines/fleet.py", "from fedrec.flower.codec import encode"),
    ],
)
def test_an_upward_import_is_found(path: str, source: str) -> None:
    assert wrong(source, path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("models/base.py", "from fedrec.config import Experiment\nimport numpy as np"),
        ("models/mf.py", "from .base import build"),
        ("privacy/keys.py", "from fedrec.data.home import put_new"),
        ("engines/outcome.py", "import fedrec\nfrom fedrec import __version__"),
    ],
)
def test_a_downward_import_is_allowed(path: str, source: str) -> None:
    assert not wrong(source, path)


@pytest.mark.parametrize(("library", "place"), CONFINED.items())
def test_a_confined_library_stays_in_its_place(library: str, place: str) -> None:
    users = {
        path
        for path in MODULES
        if any(module.split(".")[0] == library for module in imports((ROOT / path).read_text(), path))
    }
    assert users
    assert all(path.startswith(place) for path in users)


def test_no_module_has_a_name_that_a_flower_app_drops() -> None:
    names = [part.removesuffix(".py") for path in MODULES for part in path.split("/")]
    assert not [name for name in names if name.startswith("test_") or name.endswith("_test")]


HEAVY = ("torch", "numba", "flwr", "matplotlib", "scipy", "dp_accounting", "opacus", "ray", "pandas")

LIGHT = """
import sys
import fedrec, fedrec.models.mf, fedrec.models.popularity, fedrec.models.gram
import fedrec.training.local, fedrec.federation.round
"""

PHONE = (
    LIGHT
    + """
import numpy as np
from fedrec.config import parse
from fedrec.data.interactions import Catalogue, Interactions
from fedrec.federation.planning import make_federation
from fedrec.federation.round import client_round

text = '[data]\\nname="synthetic"\\n[model]\\nname="mf"\\nstart="random"\\n'
text += '[training]\\nbackend="numpy"\\n[privacy]\\nnoise_multiplier=1.0'
catalogue = Catalogue(np.arange(9).astype(str))
me = Interactions("phone", np.array([0, 2]), np.array([1, 2], np.int32), catalogue)
federation = make_federation(parse(text), catalogue, 1)
state = federation.start()
sent = client_round(federation.model, state.shared, me, federation.plan(1), part=0)
assert all(np.all(array != 0) for array in sent.arrays.values())
assert federation.model.score(state.shared, federation.model.personalise(state.shared, me)).shape == (1, 9)
"""
)


@pytest.mark.parametrize("script", [LIGHT, PHONE], ids=["importing", "a whole round of MF on a phone"])
def test_no_heavy_library_is_loaded(script: str) -> None:
    script += f"\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_the_version_is_the_distribution_s() -> None:
    assert fedrec.__version__ == version("fedrec")
