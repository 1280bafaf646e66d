"""What can break a promise although its arithmetic is right: each hazard, and how a run stands to it.

The hazards are those of NIST SP 800-226 (2025) and of the literature on federated learning. ``met`` says that the
design deals with it and the tests show it, ``open`` that this run does not, and ``assumed`` that the promise takes it
for granted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedrec.audit.record import Run
from fedrec.privacy.events import SkellamEvent


@dataclass(frozen=True)
class Hazard:
    """One of them.

    Attributes:
        name: what can go wrong.
        status: ``met``, ``open`` or ``assumed``.
        text: why, in a sentence or two.
    """

    name: str
    status: Literal["met", "open", "assumed"]
    text: str


def hazards(run: Run) -> tuple[Hazard, ...]:
    """How a run with privacy stands to each hazard; none for a run without, where nothing is promised."""
    if not run.private:
        return ()
    return (*_of_noise(run), *_of_people(run), *_of_use())


def aggregation_status(run: Run) -> str:
    """``real`` where secure aggregation hid single vectors, else the word with which the run says what it did."""
    status = run.aggregation.partition(":")[0]
    return "real" if status == "secure aggregation" else status or "not stated"


def _of_noise(run: Run) -> tuple[Hazard, ...]:
    integers = all(isinstance(event, SkellamEvent) for event in run.events(run.opening.unit))
    inside = any(charge.inside for charge in run.charges)
    floating = (
        Hazard(
            "Floating-point noise",
            "met",
            "The noise is Skellam on integers, from a sampler whose stated statistical distance is charged to delta; "
            "no floating point touches a draw of a device.",
        )
        if integers
        else Hazard(
            "Floating-point noise",
            "open",
            "The noise is Gaussian in floating point, whose last bits can give values away (Mironov 2012); "
            + ("noise inside of local training is so on devices too." if inside else "devices add integers instead."),
        )
    )
    source = (
        Hazard(
            "Seeded noise",
            "open",
            "The noise is drawn from the experiment's public seed: whoever knows it can subtract all of it.",
        )
        if run.seeded
        else Hazard(
            "Seeded noise",
            "met",
            "Every device's noise comes from a ChaCha20 stream that its operating system keyed, and no seed is sent.",
        )
    )
    return (
        floating,
        source,
        Hazard(
            "Rows without noise",
            "met",
            "Noise is on every coordinate of every array, so that which items somebody touched does not show as zeros.",
        ),
        Hazard(
            "Noise used twice",
            "met",
            "An attempt has noise of its own, is charged when it is reserved, and is never answered twice.",
        ),
    )


def _of_people(run: Run) -> tuple[Hazard, ...]:
    distributed = run.opening.trust == "distributed"
    least = min((attempt.declared.min_cohort for attempt in run.attempts), default=0)
    colluders = max((attempt.declared.colluders for attempt in run.attempts), default=0)
    found = []
    if distributed:
        real = aggregation_status(run) == "real"
        found += [
            Hazard(
                "Single vectors in the server's sight",
                "met" if real else "open",
                "Secure aggregation showed the server sums alone."
                if real
                else "No secure aggregation ran: each vector carries only a share of the noise, and the server's "
                "process could have looked at one.",
            ),
            Hazard(
                "Dropouts and colluders take their noise along",
                "met",
                f"Shares are sized for {least} users less {colluders} colluders, and nothing is opened below that "
                "cohort; more colluders weaken the promise, as the table of colluding clients shows.",
            ),
            Hazard(
                "Enrolment by the server alone",
                "assumed",
                "A server that can invent clients knows their noise: a least cohort proves something only where "
                "somebody else vouches for the clients.",
            ),
            Hazard(
                "Others' noise",
                "assumed",
                "A device can prove its own share of the noise, not that of others; the canary audit tests the sum.",
            ),
        ]
    if run.opening.trust == "central":
        found.append(Hazard("A trusted server", "assumed", "The server sees every clipped vector and adds the noise."))
    return (
        *found,
        Hazard(
            "A malicious client",
            "open",
            "The sum is checked for range, but one client under masks can spoil it; the promise to the others holds.",
        ),
        Hazard(
            "Different ledgers for different people",
            "assumed",
            "A checkpoint convinces where it was published before it was asked for, where people can compare it.",
        ),
    )


def _of_use() -> tuple[Hazard, ...]:
    return (
        Hazard(
            "Settings tuned on private data",
            "open",
            "Clip norms, scales, model settings and stopping rules that were chosen by looking at private results are "
            "releases that nothing here charges.",
        ),
        Hazard(
            "More than one run",
            "open",
            "The budget is that of this run: other runs and other releases about the same people add to it.",
        ),
        Hazard(
            "Side channels",
            "open",
            "Sizes of messages depend on public numbers alone; how long a device takes, and when, is not hidden.",
        ),
        Hazard(
            "Amplification that is not there",
            "met",
            "No amplification by sampling clients is claimed, because the server knows whom it asked.",
        ),
    )
