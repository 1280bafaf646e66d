"""``fedrec bench``: the benchmarks of the checkout that this fedrec is installed from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedrec.errors import UsageError


def bench(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="This work, such as mf; may be given again.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each work.")] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON as the last line of stdout.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write the JSON to a file.")] = None,
) -> None:
    """Measure fedrec and its peers on this machine, in one run."""
    root = checkout()
    command = [sys.executable, "-m", "simulations.benchmarks", "--repeats", str(repeats)]
    command += [part for name in only or () for part in ("--only", name)]
    command += ["--json"] if as_json else []
    command += ["--out", str(out.absolute())] if out is not None else []
    done = subprocess.run(command, cwd=root, check=False)  # noqa: S603 - fedrec's own benchmarks
    raise typer.Exit(done.returncode)


def checkout() -> Path:
    """The folder that holds fedrec and its benchmarks.

    Raises:
        UsageError: if there is none: a wheel brings the library alone.
    """
    import fedrec

    root = Path(fedrec.__file__).parents[1]
    if not (root / "simulations" / "benchmarks" / "__main__.py").is_file():
        raise UsageError(
            "This fedrec is installed without its benchmarks; clone the repository and run 'make bench' there."
        )
    return root
