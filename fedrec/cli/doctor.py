"""`fedrec doctor`: what is installed, which extras and versions, and what is wrong."""

from __future__ import annotations

import json
import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedrec import __version__
from fedrec.data.home import home

_EXTRAS = ("fast", "torch", "simulation", "parquet")
_LEAST_FREE_MB = 200
_BROUGHT_BY = {"flwr": "ray"}
"""What an extra of a package brings, where the package alone would say nothing."""


def doctor(as_json: bool) -> None:
    """Print the findings; exit 1 if something needed is missing or has a wrong version."""
    found = examine()
    if as_json:
        typer.echo(json.dumps(found))
    else:
        _print(found)
    if found["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Packages of the base install and of each extra, the home folder, and every problem in one sentence."""
    problems: list[str] = []
    base = {_shown(r): _state(r) for r in _requirements(None)}
    problems += [f"{name} is {state}: pip install --upgrade fedrec." for name, state in base.items() if " " in state]
    extras = {extra: {_shown(r): _state(r) for r in _requirements(extra)} for extra in _EXTRAS}
    for extra, packages in extras.items():
        wrong = [name for name, state in packages.items() if " " in state and state != "not installed"]
        problems += [f"{name} is {packages[name]}: pip install 'fedrec[{extra}]'." for name in wrong]
    folder = home()
    probe = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not probe.is_dir() or not os.access(probe, os.W_OK):
        problems.append(f"The fedrec home '{folder}' cannot be written; set FEDREC_HOME to a folder that can.")
    free_mb = shutil.disk_usage(probe).free // 10**6
    if free_mb < _LEAST_FREE_MB:
        problems.append(f"Only {free_mb} MB are free where '{folder}' is.")
    return {
        "fedrec": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "home": str(folder),
        "packages": base,
        "extras": extras,
        "problems": problems,
    }


def _requirements(extra: str | None) -> list[Requirement]:
    """What the installed fedrec's metadata asks for, for the base or for one extra."""
    parsed = [Requirement(line) for line in requires("fedrec") or []]
    if extra is None:
        return [r for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [
        r for r in parsed if r.marker is not None and "extra" in str(r.marker) and r.marker.evaluate({"extra": extra})
    ]


def _shown(requirement: Requirement) -> str:
    """The package that tells whether a requirement is met: flwr[simulation] brings Ray."""
    return _BROUGHT_BY.get(requirement.name, requirement.name) if requirement.extras else requirement.name


def _state(requirement: Requirement) -> str:
    """The installed version, or a phrase with a space in it that says what is wrong."""
    specifier = SpecifierSet() if requirement.extras else requirement.specifier
    try:
        installed = version(_shown(requirement))
    except PackageNotFoundError:
        return "not installed"
    return installed if specifier.contains(installed, prereleases=True) else f"{installed} where {specifier} is needed"


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"fedrec {found['fedrec']}, Python {found['python']}, {found['system']}", highlight=False)
    console.print(f"home: {found['home']}", highlight=False)
    table = Table("part", "package", "version", box=None, pad_edge=False)
    for part, packages in {"base": found["packages"], **found["extras"]}.items():
        for name, state in packages.items():
            table.add_row(part, name, state)
    console.print(table)
    for extra, packages in found["extras"].items():
        if "not installed" in packages.values():
            console.print(f"extra '{extra}' is not installed: pip install 'fedrec\\[{extra}]'", highlight=False)
    for problem in found["problems"]:
        console.print(f"problem: {problem}", highlight=False, markup=False)
    if not found["problems"]:
        console.print("nothing is wrong")
