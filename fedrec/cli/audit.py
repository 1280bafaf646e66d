"""``fedrec audit``: check what a run claims, and test the claim."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Check what a run claims about privacy, and test the claim.")


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A checkpoint that was published: it shows a ledger that was rewritten since."
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="BASE64|FILE", help="The public key that must have signed; no other will do.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON as the last line of stdout.")] = False,
) -> None:
    """Recompute every figure of a run from its ledger and name every fault; exit 1 if there is one."""
    import json
    from dataclasses import asdict

    from fedrec.audit.verify import verify as check
    from fedrec.privacy.keys import public_key

    published = None if checkpoint is None else _text(checkpoint)
    verdict = check(run, published, None if key is None else public_key(key))
    for one in verdict.checks:
        typer.echo(f"{'ok   ' if one.ok else 'FAULT'}  {one.name}: {one.detail}")
    n = len(verdict.faults)
    typer.echo("sound" if verdict.sound else f"{n} fault{'' if n == 1 else 's'} found")
    if as_json:
        typer.echo(json.dumps({"sound": verdict.sound, **asdict(verdict)}))
    if not verdict.sound:
        raise typer.Exit(1)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Another folder for the two files.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON as the last line of stdout.")] = False,
) -> None:
    """Write privacy-report.html and privacy-report.json; exit 1 where the record is at fault."""
    import json

    from fedrec.audit.report import write

    found, page = write(run, out)
    typer.echo(f"privacy report: {page}")
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
    if not found["verification"]["sound"]:
        raise typer.Exit(1)


Experiment = Annotated[
    str,
    typer.Argument(metavar="[EXPERIMENT]", help="A TOML file, a packaged name or a run folder (default: default)."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as privacy.epsilon=4 or model=gram."),
]
Seed = Annotated[int, typer.Option(min=0, help="Of what the audit draws by itself.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write the result there too, beside a run.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the last line of stdout.")]


@app.command()
def canary(
    experiment: Experiment = "default",
    overrides: Set = None,
    canaries: Annotated[
        int | None, typer.Option(help="Canaries that take part; as many more do by a coin (default: up to 1000).")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Item rows that each canary touches; by default it is dense.")
    ] = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Rehearse an experiment with canaries and estimate its epsilon; exit 1 where it is weaker than declared."""
    from fedrec.cli.audit_runs import canary as run

    run(experiment, overrides or [], canaries, rows, seed, out, as_json)


@app.command()
def attack(
    experiment: Experiment = "default",
    overrides: Set = None,
    view: Annotated[str, typer.Option(help="Who attacks: server, colluder, client or public.")] = "server",
    targets: Annotated[int | None, typer.Option(help="Users that each game is about (default: up to 100).")] = None,
    shadows: Annotated[int, typer.Option(help="Runs that the attacker learns from.")] = 8,
    runs: Annotated[int, typer.Option(help="Runs that it guesses in.")] = 4,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Attack an experiment's users, with and without privacy; exit 1 where more is told than declared possible."""
    from fedrec.cli.audit_runs import attack as run

    run(experiment, overrides or [], view, targets, shadows, runs, seed, out, as_json)


def _text(path: Path) -> str:
    from fedrec.errors import UsageError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the checkpoint '{path}': {error}.") from error
