"""``fedrec device recommend``, ``budget`` and ``serve``: what a device gives its owner, without a network."""

from __future__ import annotations

from typing import Annotated

import typer

from fedrec.cli.device_home import HomeOption, device

JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def recommend(
    home: HomeOption = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many items.")] = 10,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="0: by score alone; up to 1: items as unlike each other as can be.")
    ] = 0.0,
    novelty: Annotated[
        float, typer.Option(min=0, max=1, help="0: by score alone; up to 1: what few people know.")
    ] = 0.0,
    why: Annotated[bool, typer.Option("--why", help="Tell the parts of each score, which add up to it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Recommend from this device's own history and the last model, offline."""
    import json

    from fedrec.device import telling
    from fedrec.device.recommend import recommend as find

    with device(home).open_store() as store:
        found = find(store, k, diversity=diversity, novelty=novelty)
    if as_json:
        typer.echo(json.dumps(telling.recommendations(found), allow_nan=False))
    else:
        typer.echo("\n".join(telling.recommendation_lines(found, why)))


def budget(
    home: HomeOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Hold it against the server's ledger; exit 1 if that says something else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what was spent, when and for which run, of what the policy allows."""
    import json

    from fedrec.device import telling
    from fedrec.device.budget import look

    with (opened := device(home)).open_store() as store:
        spent, checked = look(opened, store, check=check)
    if as_json:
        typer.echo(json.dumps(telling.budget(spent, checked), allow_nan=False))
    else:
        typer.echo("\n".join(telling.budget_lines(spent, checked)))
    if checked is not None and checked.faults:
        raise typer.Exit(1)


def serve(
    home: HomeOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the loopback address; 0 takes a free one.")] = 8765,
) -> None:
    """Give apps on this device recommendations and take what happens, over HTTP at 127.0.0.1, until stopped."""
    from fedrec.device.api import serve as run

    run(device(home), port, typer.echo)
