"""``fedrec data``: the data sets there are, fetching them, looking at them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedrec.config import DataConfig
    from fedrec.data.inspect import Portrait
    from fedrec.data.interactions import Interactions

app = typer.Typer(no_args_is_help=True, help="List, fetch and inspect data sets.")


@app.command("list")
def list_() -> None:
    """List the data sets with their licences."""
    from rich.console import Console
    from rich.table import Table

    from fedrec.data.fetch import cached
    from fedrec.data.source import Fetchable
    from fedrec.registry import SOURCES

    table = Table("data set", "here", "what it is", box=None, padding=(0, 2, 0, 0))
    for name in SOURCES.names():
        source = SOURCES.get(name)
        state = "built in" if not isinstance(source, Fetchable) else "cached" if cached(name).exists() else "fetch"
        table.add_row(name, state, source.about)
    Console().print(table)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A data set of `fedrec data list`.")],
    path: Annotated[bool, typer.Option("--path", help="Print the folder alone, for scripts.")] = False,
) -> None:
    """Download a data set into the cache, once."""
    from fedrec.data.source import fetch as fetch_source

    folder = fetch_source(name)
    typer.echo(folder if path else f"{name} is in {folder}.")


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_FILE", help="A data set, or a file of interactions.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the data set, such as k_core=5."),
    ] = None,
) -> None:
    """Show counts, density and the long tail of a data set."""
    from rich.console import Console

    from fedrec.data.inspect import Portrait
    from fedrec.data.source import load

    data = load(_config(name, set_ or []))
    portrait = Portrait.of(data)
    console = Console(highlight=False)
    console.print(_facts(data, portrait))
    console.print(_spread(portrait))
    _print_long_tail(console, portrait)


def _config(name: str, overrides: list[str]) -> DataConfig:
    """The data config of a name, or of a file, whose name then is the path of a ``table``."""
    from fedrec.config import parse
    from fedrec.registry import SOURCES

    is_file = name not in SOURCES.names() and (Path(name).is_file() or "/" in name or Path(name).suffix != "")
    start: list[str] = [f"data.path={_quoted(name)}"] if is_file else []
    settings = [f"data.{override.removeprefix('data.')}" for override in overrides]
    text = f'[data]\nname = {_quoted("table" if is_file else name)}\n[model]\nname = "popularity"\n'
    return parse(text, "fedrec data inspect", [*start, *settings]).data


def _quoted(text: str) -> str:
    import json

    return json.dumps(text)  # a JSON string is a TOML string


def _facts(data: Interactions, portrait: Portrait) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), title=data.name, title_justify="left")
    table.add_row("users", f"{data.n_users:,}")
    unseen = f" ({portrait.unseen:,} without an interaction)" if portrait.unseen else ""
    table.add_row("items", f"{data.n_items:,}{unseen}")
    merged = f" ({data.duplicates:,} repeated ones left out)" if data.duplicates else ""
    table.add_row("interactions", f"{data.n_events:,}{merged}")
    table.add_row("density", f"{portrait.density:.3%}")
    table.add_row(
        "top items' share", f"1 % of items hold {portrait.top_share[0]:.1%}, 10 % hold {portrait.top_share[1]:.1%}"
    )
    if portrait.begin is not None:
        table.add_row("time", f"{portrait.begin} to {portrait.end}")
    table.add_row("catalogue", _catalogue(data))
    for number, filter_ in enumerate(data.filters):
        table.add_row("derived before privacy" if number == 0 else "", filter_)
    return table


def _catalogue(data: Interactions) -> str:
    catalogue, parts = data.catalogue, ["ids"]
    if catalogue.titles is not None:
        parts.append("titles")
    if catalogue.years is not None:
        parts.append("years")
    if catalogue.genres is not None:
        parts.append(f"{len(catalogue.genre_names)} genres or tags")
    if catalogue.features is not None:
        parts.append(f"{catalogue.features.shape[1]} numeric features")
    return ", ".join(parts)


def _spread(portrait: Portrait) -> Any:
    from rich.table import Table

    from fedrec.data.inspect import QUANTILES

    names = {0.0: "least", 0.5: "median", 1.0: "most"}
    table = Table("", *(names.get(q, f"{q:.0%}") for q in QUANTILES), box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("events a user", *(f"{value:,.0f}" for value in portrait.per_user))
    table.add_row("events an item", *(f"{value:,.0f}" for value in portrait.per_item))
    return table


def _print_long_tail(console: Any, portrait: Portrait) -> None:
    from fedrec.data.inspect import long_tail

    width = max(min(console.width - 12, 72), 20)
    console.print("\nEvents an item, by the item's rank (both axes logarithmic)")
    for line in long_tail(portrait.sorted_counts, width):
        console.print(line, markup=False, no_wrap=True, overflow="crop")
