"""``fedrec privacy``: plan a promise before a run, and explain the promise of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from fedrec.privacy.mechanism import Trust, Unit

app = typer.Typer(no_args_is_help=True, help="Plan a privacy promise, and explain that of a run.")


@app.command()
def plan(
    users: Annotated[int, typer.Option(help="Users asked in every round.")],
    epsilon: Annotated[float | None, typer.Option(help="The budget of the whole run.")] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Instead of --epsilon: the noise of every round, to learn its epsilon.")
    ] = None,
    delta: Annotated[float, typer.Option(help="The probability that the promise does not cover.")] = 1e-5,
    rounds: Annotated[int, typer.Option(help="Releases of the whole run.")] = 1,
    dropout: Annotated[float, typer.Option(help="Probability with which a user does not answer.")] = 0.1,
    corrupt: Annotated[float, typer.Option(help="Part of the users who are assumed to collude.")] = 0.0,
    unit: Annotated[str, typer.Option(help="user or interaction.")] = "user",
    trust: Annotated[str, typer.Option(help="distributed, local or central.")] = "distributed",
    coordinates: Annotated[
        int | None, typer.Option(help="Of one release; the default is that of mf on MovieLens-100K.")
    ] = None,
    interaction_clip: Annotated[
        float | None, typer.Option(help="How far one interaction can move a user's vector, in clip norms.")
    ] = None,
    resolution: Annotated[float, typer.Option(help="As privacy.resolution of an experiment.")] = 64.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what a promise takes: minimum cohort, noise, bytes, and by recorded runs its utility."""
    import json

    from fedrec.audit.plan import MF_COORDINATES, Question
    from fedrec.audit.plan import as_json as to_json
    from fedrec.audit.plan import plan as answer
    from fedrec.audit.words import plan_lines

    question = Question(
        users=users,
        rounds=rounds,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
        dropout=dropout,
        corrupt=corrupt,
        unit=cast("Unit", unit),
        trust=cast("Trust", trust),
        coordinates=MF_COORDINATES if coordinates is None else coordinates,
        interaction=interaction_clip,
        resolution=resolution,
    )
    found = answer(question)
    typer.echo(json.dumps(to_json(found), allow_nan=False) if as_json else "\n".join(plan_lines(found)))


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say what a run promises, to whom, and by which reckoning; exit 1 where its summary says something else."""
    import json

    from fedrec.audit.explain import as_json as to_json
    from fedrec.audit.explain import explain as answer
    from fedrec.audit.record import read_run
    from fedrec.audit.words import explanation_lines

    told = answer(read_run(run))
    typer.echo(json.dumps(to_json(told), allow_nan=False) if as_json else "\n".join(explanation_lines(told)))
    if told.faults:
        raise typer.Exit(1)
