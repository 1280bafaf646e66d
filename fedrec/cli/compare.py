"""``fedrec compare RUN…``: a table of finished runs, and the privacy-utility plot as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of finished runs.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page with the plot (default: compare.html).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite any file at --out.")] = False,
) -> None:
    """Compare finished runs: a table, and utility against epsilon as a page to open in a browser."""
    from rich.console import Console

    from fedrec.reporting.compare import as_json, as_tables, data_sets, read_runs, write_page

    rows = read_runs(runs)
    mixed = data_sets(rows)
    if len(mixed) > 1:
        warning = f"Warning: the runs are on different data sets ({', '.join(mixed)}); compare within each one only."
        typer.echo(warning, err=True)
    written = write_page(rows, out or Path("compare.html"), force=force)
    if json:
        import json as encoder

        typer.echo(encoder.dumps(as_json(rows)))
    else:
        # A pipe has no width to fit: there a run stays one line.
        console = Console() if Console().is_terminal else Console(width=400)
        for table in as_tables(rows, console.width):
            console.print(table)
    typer.echo(f"Plot: {written}", err=True)
