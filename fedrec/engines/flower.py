"""The Flower engine's launcher: a code-free app, an own SuperLink, the run's status, and its failure brought back.

Imports no flwr: Flower runs in processes of its own, and `fedrec.flower` is what they load.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedrec import processes
from fedrec.config import Experiment
from fedrec.engines.run import headline
from fedrec.engines.setting import prepare
from fedrec.errors import MissingExtraError, RoundFailedError
from fedrec.reporting.folder import EXPERIMENT, RunFolder
from fedrec.reporting.progress import Progress

_STARTUP_S, _POLL_S = 60.0, 0.5


def run_on_flower(experiment: Experiment, place: Callable[[], RunFolder], *, resume: bool) -> dict[str, Any]:
    """Run an experiment on Flower's simulation runtime, through a real ServerApp, and return its summary.

    Args:
        experiment: what to run; ``engine.nodes`` nodes hold the users in shards.
        place: makes the run folder, or opens one to resume; called only when everything has been checked.
        resume: which of the two.

    Raises:
        MissingExtraError: Ray is not installed.
        FedrecError: what the ServerApp raised, as it raised it.
        RoundFailedError: Flower itself failed; the message carries its own words.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingExtraError("The Flower engine", "simulation")
    rounds = prepare(experiment).federation.rounds
    folder = place()
    try:
        return _run_in(folder, experiment, rounds, resume=resume)
    finally:
        if not folder.has(EXPERIMENT):  # nothing came of it, so nothing is left to resume
            with contextlib.suppress(OSError):
                folder.root.rmdir()


def _run_in(folder: RunFolder, experiment: Experiment, rounds: int, *, resume: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fedrec-flower-") as scratch:
        work = Path(scratch)
        failure = work / "failure.json"
        app = work / "app"
        write_app(
            app,
            {
                "experiment": experiment.to_toml(),
                "output-dir": str(folder.root.resolve()),
                "resume": resume,
                "failure-file": str(failure),
            },
        )
        with superlink(work / "home") as environment, Progress() as progress:
            run_id = _submit(environment, app, experiment.engine.nodes)
            progress.start(rounds, len(folder.rounds()))
            status, details = _follow(environment, run_id, folder, progress, experiment.privacy.epsilon)
        if failure.is_file():
            raise processes.brought_back(json.loads(failure.read_text(encoding="utf-8")))
        if status != "finished:completed":
            raise RoundFailedError(f"Flower's run ended as {status}: {details.strip() or 'no details'}.")
    return folder.read_summary()


def write_app(folder: Path, config: Mapping[str, str | bool]) -> None:
    """A Flower app that is configuration only: the code that runs is the fedrec that a node's owner installed."""
    components = {"serverapp": "fedrec.flower.serverapp:app", "clientapp": "fedrec.flower.clientapp:app"}
    project = {
        "project": {
            "name": "fedrec-run",
            "version": "1.0.0",
            "description": "configuration only",
            "license": "Apache-2.0",
        },
        "tool": {"flwr": {"app": {"publisher": "fedrec", "components": components, "config": dict(config)}}},
    }
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")


@contextlib.contextmanager
def superlink(home: Path) -> Iterator[dict[str, str]]:
    """A SuperLink of our own on a free loopback port; yields the environment for ``flwr`` commands against it.

    Raises:
        RoundFailedError: if it does not come up.
    """
    home.mkdir(parents=True)
    port = processes.free_port()
    environment = processes.loopback(home)
    environment |= {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port), "RAY_USAGE_STATS_ENABLED": "0"}
    connection = {"superlink": {"default": "local", "local": {"address": f"127.0.0.1:{port}", "insecure": True}}}
    (home / "config.toml").write_text(tomli_w.dumps(connection), encoding="utf-8")
    command = [processes.script("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--isolation", "subprocess", "--simulation"]
    log = home / "superlink.log"
    with log.open("wb") as stream:
        # A session of its own: Ctrl-C reaches us alone, and we stop the run in order.
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            env=environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, log)
        yield environment
    finally:
        processes.end(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
    raise RoundFailedError(f"Flower's SuperLink did not start: {tail[0]}.")


def _submit(environment: Mapping[str, str], app: Path, nodes: int) -> str:
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    answer = processes.flwr(environment, "run", str(app), "local", "--federation-config", federation)
    return str(answer["run-id"])


def _follow(
    environment: Mapping[str, str], run_id: str, folder: RunFolder, progress: Progress, budget: float | None
) -> tuple[str, str]:
    """Show each recorded round until the run ends; an interruption stops the run first."""
    shown = len(folder.rounds())
    try:
        while True:
            row = processes.flwr(environment, "ls", "local", "--run-id", run_id)["runs"][0]
            lines = folder.rounds()
            for line in lines[shown:]:
                progress.update(line["round"], headline(line["metrics"]), line["epsilon"], budget)
            shown = len(lines)
            if str(row["status"]).startswith("finished"):
                return str(row["status"]), str(row["status-details"])
            time.sleep(_POLL_S)
    except BaseException:
        with contextlib.suppress(RoundFailedError):
            processes.flwr(environment, "stop", run_id, "local")
        raise
