"""What a round over real devices costs, and what it costs when devices drop out of it.

    python -m simulations.deployment                                      # five devices that all answer
    python -m simulations.deployment --devices 10 --rounds 1 --dropping 3 # 30% of ten drop out of three rounds

A server and its devices run as processes of their own on this machine, through TLS, with secure aggregation. First come
rounds in which everybody answers, then rounds in which 30% of the devices, others each time, fall silent as soon as
they are chosen: all their processes are stopped, as by a network that is gone, until the round is over. A deadline is
waited for once in such a round. It ends with an error if a round is lost, or the record does not pass the audit.

Each secret is held by the other devices and opened by more than half of them, so one of five may drop out once secrets
are shared, and three of ten.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
from pathlib import Path

from simulations.local_deployment import DemonstrationError, Device, LocalDeployment, RoundCost

EXPERIMENT = Path(__file__).parents[1] / "server" / "experiment.toml"
ITEMS = 60
DROPPING = 0.3
DEADLINE_S = 40.0
"""For one message: the devices share the cores of one machine, and each starts a process for it."""
POLICY = {"opt_in": True, "epsilon_day": 8.0, "epsilon_total": 8.0}


def measure(folder: Path, devices: int, rounds: int, dropping: int) -> list[RoundCost]:
    """Train in an empty folder; every round's cost.

    Raises:
        DemonstrationError: if a round is lost, or a record is not what it must be.
    """
    out = math.floor(DROPPING * devices)
    if dropping and not out:
        raise DemonstrationError(f"30% of {devices} devices is less than one; give --devices 4 or more.")
    with LocalDeployment(folder) as deployment:
        _prepare(deployment, devices, rounds + dropping, devices - out)
        for device in deployment.devices:
            deployment.start(device)
        deployment.wait(f"{rounds} rounds were done", 300 * rounds, lambda: len(deployment.rounds()) >= rounds)
        for index in range(dropping):
            gone = [deployment.devices[(out * index + place) % devices] for place in range(out)]
            _drop(deployment, rounds + index + 1, gone)
        deployment.wait("training was finished", 120, lambda: bool(deployment.log("finished")))
        _check(deployment, rounds, out)
        return deployment.rounds()


def _prepare(deployment: LocalDeployment, devices: int, rounds: int, least: int) -> None:
    items = deployment.folder / "items.csv"
    _write(items, ("item_id",), [(f"item-{item}",) for item in range(ITEMS)])
    sizes = (f"federation.rounds={rounds}", f"federation.cohort={devices}", f"federation.min_cohort={least}")
    deployment.init(EXPERIMENT, items, *sizes, f"deployment.deadline={DEADLINE_S}")
    deployment.up()
    for number in range(devices):
        history = deployment.folder / f"history-{number + 1}.csv"
        seen = [(f"item-{item}", 1_700_000_000 + item) for item in range(number, ITEMS, 5 + number % 3)]
        _write(history, ("item_id", "time"), seen)
        deployment.add(f"device {number + 1}", history, POLICY | {"min_cohort": least})


def _drop(deployment: LocalDeployment, round_: int, gone: list[Device]) -> None:
    """One round, of which some devices hear nothing from the moment they are chosen for it."""

    def chosen() -> bool:
        return any(line["round"] == round_ for line in deployment.log("recruited"))

    deployment.wait(f"round {round_} had begun", 120, chosen)
    for device in gone:
        deployment.freeze(device)
    try:
        deployment.wait(f"round {round_} was done", 600, lambda: len(deployment.rounds()) >= round_)
    finally:
        for device in gone:
            deployment.thaw(device)


def _check(deployment: LocalDeployment, rounds: int, out: int) -> None:
    """Nobody is missing where nobody dropped, and as many as dropped where they did; both records are whole."""
    costs = deployment.rounds()
    for cost in costs[rounds:]:
        if cost.asked - cost.summed < out:
            raise DemonstrationError(f"Round {cost.round} lost {cost.asked - cost.summed} devices, not {out}.")
    status = deployment.status()
    if status["epsilon"] > status["budget"]:
        raise DemonstrationError(f"Epsilon {status['epsilon']} is over the budget of {status['budget']}.")
    deployment.run("audit", "verify", str(deployment.server / "run"))


def _write(path: Path, header: tuple[str, ...], rows: list[tuple[str]] | list[tuple[str, int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    """Measure in a temporary folder and print the table; exit 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dropping", type=int, default=0, help="rounds in which 30%% of the devices drop out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fedrec-deployment-") as folder:
        try:
            costs = measure(Path(folder), given.devices, given.rounds, given.dropping)
        except DemonstrationError as error:
            for log in sorted(Path(folder).glob("*.txt")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            sys.exit(f"deployment: {error}")
    print(RoundCost.HEADER)
    for cost in costs:
        print(cost.line())


if __name__ == "__main__":
    main()
