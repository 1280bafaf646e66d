"""The `fedrec` command: verbs, exit codes, and errors as one sentence."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

# Read when NumPy's BLAS loads: a federation scales by process, and idle BLAS threads only get in each other's way.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import typer

from fedrec import __version__
from fedrec.errors import FedrecError, PrivacyWarning

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Private federated recommenders: simulate, compare, audit, deploy.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    pass


@app.command()
def simulate(
    experiment: Annotated[
        str | None,
        typer.Argument(
            metavar="[EXPERIMENT]", help="An experiment's TOML file, or the name of a packaged one (default: default)."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as privacy.epsilon=4 or model=gram."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Where clients run: fleet or flower.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Threads that share out compiled training; they change no result.", min=1)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default the next free one in runs/.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Continue an interrupted run to the identical result.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as the last line of stdout.")] = False,
) -> None:
    """Run a federation on this machine and write a run folder with its report."""
    from fedrec.cli.simulate import run

    run(experiment, overrides or [], engine, workers, out, resume, as_json)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Say what is installed, which extras and versions, and what is wrong."""
    from fedrec.cli.doctor import doctor as run

    run(as_json)


def _add_groups() -> None:
    if app.registered_groups:  # main was called before in this process
        return
    from fedrec.cli.audit import app as audit
    from fedrec.cli.bench import bench
    from fedrec.cli.compare import compare
    from fedrec.cli.data import app as data
    from fedrec.cli.device import app as device
    from fedrec.cli.privacy import app as privacy
    from fedrec.cli.server import app as server

    app.command()(bench)
    app.command()(compare)
    app.add_typer(audit, name="audit")
    app.add_typer(data, name="data")
    app.add_typer(device, name="device")
    app.add_typer(privacy, name="privacy")
    app.add_typer(server, name="server")


def main() -> None:
    """The entry point. Exit 0 done, 1 failed, 2 bad usage or bad input, 3 the privacy budget refuses."""
    debug = "--debug" in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    _end_in_order()
    warnings.simplefilter("always", PrivacyWarning)
    warnings.showwarning = _show_warning
    try:
        _add_groups()
        app(args=arguments, prog_name="fedrec")
    except FedrecError as error:
        if debug:
            raise
        typer.echo(f"fedrec: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("fedrec: interrupted.", err=True)
        sys.exit(130)
    except MemoryError as error:
        if debug:
            raise
        typer.echo(f"fedrec: not enough memory: {error}; lower the model's size or the cohort.", err=True)
        sys.exit(1)
    except OSError as error:
        if debug:
            raise
        place = f" ({error.filename})" if error.filename else ""
        typer.echo(f"fedrec: {error.strerror or error}{place}.", err=True)
        sys.exit(1)


def _end_in_order() -> None:
    """Being asked to end, or losing the terminal, runs what ends the processes that a run has started."""

    def end(number: int, frame: object) -> None:  # noqa: ARG001 - the signature of a signal's handler
        sys.exit(128 + number)

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, end)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,  # noqa: ARG001 - the signature of warnings.showwarning
    line: str | None = None,  # noqa: ARG001 - the same
) -> None:
    """Privacy warnings in one line; a library's own warnings are for its developers."""
    if issubclass(category, PrivacyWarning):
        typer.echo(f"fedrec: warning: {message}", err=True)
    elif os.environ.get("PYTHONWARNINGS"):
        typer.echo(f"{filename}:{lineno}: {category.__name__}: {message}", err=True)


if __name__ == "__main__":
    main()
