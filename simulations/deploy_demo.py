"""A whole deployment in a few minutes, told as it happens: ``make deploy-demo``.

A server and five devices run as processes of their own on this machine, through TLS, with keys of their own, and are
started as their owners would start them. Five rounds are trained with secure aggregation. One device loses power in
the middle of the second and comes back; one has a small budget and spends it. At the end a device recommends without
any network, and every device holds the server's ledger against its own record. It ends with an error if anything is
not as it is told.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from simulations.local_deployment import DemonstrationError, Device, LocalDeployment

EXPERIMENT = Path(__file__).parents[1] / "server" / "experiment.toml"
ROUNDS = 5
GENRES = ("Crime", "Comedy", "Western", "Animation", "Drama")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve")
FILMS = [
    (f"film-{number:02d}", f"{GENRES[number % 5]} no. {number // 5 + 1}", GENRES[number % 5]) for number in range(60)
]
OPEN = {"opt_in": True, "min_cohort": 3, "epsilon_day": 8.0, "epsilon_total": 8.0}
THRIFTY = OPEN | {"epsilon_total": 4.0}
"""Two rounds of this experiment cost epsilon 3.9, three 4.9."""


class Story:
    """Prints what happens, with the time since the beginning, and holds what is said against what is."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """A line of the story."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    def sure(self, true: bool, text: str) -> None:
        """A line that is checked.

        Raises:
            DemonstrationError: if it is not true.
        """
        if not true:
            raise DemonstrationError(f"It is not true that: {text}")
        self.tell(f"{text} (checked)")


def play(folder: Path) -> None:
    """The whole story, in an empty folder.

    Raises:
        DemonstrationError: as soon as something is not as told.
    """
    story = Story()
    with LocalDeployment(folder) as deployment:
        devices = _prepare(deployment, story)
        dan, eve = devices[3], devices[4]
        for device in devices:
            deployment.start(device)
        story.tell("the five devices run: each an agent, a SuperNode, and a process for each message")
        before = _power_cut(deployment, dan, story)
        deployment.start(dan)
        story.tell("Dan's device is started again; Flower lets a killed node in again after about 47 s")
        deployment.wait(f"{ROUNDS} rounds were done", 1800, lambda: bool(deployment.log("finished")))
        _rounds(deployment, story)
        _came_back(deployment, dan, before, story)
        _over_budget(deployment, eve, story)
        _ledgers(deployment, devices, story)
        for device in devices:
            deployment.stop(device)
        deployment.down()
        story.tell("everything is stopped")
        _recommend(deployment, devices[0], story)


def _prepare(deployment: LocalDeployment, story: Story) -> list[Device]:
    items = deployment.folder / "films.csv"
    _write(items, ("item_id", "title", "genres"), FILMS)
    deployment.init(EXPERIMENT, items, f"federation.rounds={ROUNDS}")
    story.tell("server init: an authority, a TLS certificate, four signing keys, 60 public films, one experiment")
    deployment.up()
    story.tell("server up: a SuperLink on loopback, and the TLS gateway in front of it")
    for number, name in enumerate(NAMES):
        history = deployment.folder / f"history-{number + 1}.csv"
        _write(history, ("item_id", "time"), _seen(number))
        deployment.add(f"{name}'s device", history, THRIFTY if name == "Eve" else OPEN)
        story.tell(f"{name}'s device is enrolled by a one-time invitation; {name} likes {GENRES[number]}")
    story.sure(deployment.status()["enrolled"] == len(NAMES), "five devices are enrolled")
    return deployment.devices


def _seen(number: int) -> list[tuple[str, int]]:
    """What a user has seen: most of one genre, and a few other films."""
    draw = random.Random(number)  # noqa: S311 - a made-up history
    own = [film for film, _, genre in FILMS if genre == GENRES[number]]
    other = [film for film, _, genre in FILMS if genre != GENRES[number]]
    chosen = draw.sample(own, 8 - number) + draw.sample(other, 2 + number)
    return [(film, 1_700_000_000 + 3600 * place) for place, film in enumerate(chosen)]


def _power_cut(deployment: LocalDeployment, dan: Device, story: Story) -> tuple[int, int]:
    """End a device in the second round; its events and charges by then."""
    deployment.wait("round 1 was done", 600, lambda: bool(deployment.log("round")))
    story.tell("round 1 is done")
    deployment.wait("round 2 had begun", 60, lambda: any(line["round"] == 2 for line in deployment.log("recruited")))
    ended = deployment.kill(dan)
    story.tell(f"kill -9 of the {ended} processes of Dan's device, in the middle of round 2")
    held = _held(deployment, dan)
    deployment.wait("round 2 was done", 600, lambda: len(deployment.log("round")) > 1)
    opened = deployment.log("round")[1]["survivors"]
    story.sure(
        3 <= opened < len(NAMES), f"round 2 is done: the sum of {opened} devices was opened, and no vector alone"
    )
    return held


def _held(deployment: LocalDeployment, device: Device) -> tuple[int, int]:
    facts = deployment.device_status(device)
    return facts["history"]["events"], (facts["charges"] or {"count": 0})["count"]


def _rounds(deployment: LocalDeployment, story: Story) -> None:
    status, rounds, phases = deployment.status(), deployment.log("round"), deployment.log("phase")
    story.sure(
        status["round"] == len(rounds) == ROUNDS and status["epsilon"] <= status["budget"],
        f"{ROUNDS} rounds are done; the server's ledger says epsilon {status['epsilon']:.2f} of {status['budget']}",
    )
    story.tell("  round  attempt  asked  in the sum  messages  seconds  kB up  kB down")
    for line in rounds:
        own = [one for one in phases if (one["round"], one["attempt"]) == (line["round"], line["attempt"])]
        messages, seconds = sum(one["asked"] for one in own), sum(one["seconds"] for one in own)
        story.tell(
            f"  {line['round']:5d}  {line['attempt']:7d}  {line['cohort']:5d}  {line['survivors']:10d}  {messages:8d}  "
            f"{seconds:7.1f}  {line['up_bytes'] / 1e3:5.1f}  {line['down_bytes'] / 1e3:7.1f}"
        )
    usual = {one["phase"] for one in phases if one["round"] == 2} - {"advert"}
    story.sure(
        usual == {"shares", "masked", "agree", "unmask"}, "a round is four messages a device, and one before the first"
    )


def _came_back(deployment: LocalDeployment, dan: Device, before: tuple[int, int], story: Story) -> None:
    events, charges = _held(deployment, dan)
    story.sure(events == before[0], f"Dan's device lost nothing: {events} interactions before and after")
    story.sure(charges > before[1], f"and it takes part again: {before[1]} charges then, {charges} now")


def _over_budget(deployment: LocalDeployment, eve: Device, story: Story) -> None:
    facts = deployment.device_status(eve)
    reasons = [refusal["detail"] for refusal in facts["refusals"] if refusal["code"] == "budget-total"]
    spent = facts["charges"]["epsilon"]
    story.sure(spent <= THRIFTY["epsilon_total"], f"Eve's device allows epsilon 4 in all and has spent {spent:.2f}")
    story.sure(bool(reasons), f"then it refused: {reasons[0] if reasons else 'it did not'}")


def _ledgers(deployment: LocalDeployment, devices: list[Device], story: Story) -> None:
    deployment.run("audit", "verify", str(deployment.server / "run"))
    story.tell("fedrec audit verify: the server's ledger is whole, and its epsilon follows from it")
    for device in devices:
        home = ("--home", str(device.home))
        deployment.run("device", "sync", *home)
        facts = deployment.told("device", "budget", "--check", *home)
        charges = [charge for run in facts["runs"] for charge in run["charges"]]
        story.sure(
            not facts["ledger"]["faults"] and len(charges) > 0,
            f"{device.name} was charged {len(charges)} times, epsilon {facts['spent']:.2f}; the ledger proves each",
        )


def _recommend(deployment: LocalDeployment, device: Device, story: Story) -> None:
    found = deployment.told("device", "recommend", "--home", str(device.home), "--k", "5", "--why")["items"]
    seen = {film for film, _ in _seen(0)}
    story.sure(len(found) == 5 and not seen & {one["item"] for one in found}, f"offline, {device.name} recommends:")
    for one in found:
        story.tell(f"  {one['score']:+.3f}  {one['title']}: {one['reasons'][0]['text']}")
    story.tell("with five users under this much noise, that is practice; hundreds make recommendations")


def _write(path: Path, header: tuple[str, ...], rows: Sequence[tuple[str | int, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main() -> None:
    """Play it in a temporary folder; exit 1 if something is not as told."""
    with tempfile.TemporaryDirectory(prefix="fedrec-demo-") as folder:
        try:
            play(Path(folder))
        except DemonstrationError as error:
            for log in sorted(Path(folder).glob("*.txt")):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            sys.exit(f"deploy_demo: {error}")


if __name__ == "__main__":
    main()
