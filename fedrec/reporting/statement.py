"""The privacy statement in plain words, from what a run declares."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrec.reporting import figures
from fedrec.reporting.summary import Privacy

_PROTECTED = {
    "user": ("that person's whole history", "any one person's history was used", "that history been empty"),
    "interaction": ("any single interaction of a person", "any one interaction took place", "it not taken place"),
}

_ADJACENCIES = {
    "zero-out": "one person takes part and adds their share of the noise, but contributes as if they had no history",
    "add-or-remove": "one person is added to, or removed from, those who take part",
}

_TRUST = {
    "distributed": (
        "Nobody needs to be trusted with a single person's update: every client clips its update and adds a share of "
        "the noise, and the promise is about the sum. It needs secure aggregation, which shows the server no more. "
        "Enough clients have to be honest: the shares are sized for the minimum cohort less those assumed to collude, "
        "and every further client that leaves its share out weakens the promise."
    ),
    "central": (
        "The server must be trusted: it sees every client's clipped update and adds the noise itself. This setting "
        "exists to compare in simulations; a device refuses it."
    ),
    "local": (
        "Nobody has to be trusted, the server included: every client adds all of the noise itself before anything is "
        "sent. The price is far more noise in the sum."
    ),
}

_MORE = "Taking part, and how many took part, is public."


@dataclass(frozen=True)
class Statement:
    """What a report says about privacy.

    Attributes:
        headline: one sentence.
        sentences: the paragraphs below it.
        warning: what keeps the statement from being a guarantee in this very run, or "".
        facts: (name, value, explanation) of unit, adjacency, trust, epsilon, delta and the noise.
        unprotected: what it does not cover, a sentence each.
    """

    headline: str
    sentences: tuple[str, ...]
    warning: str
    facts: tuple[tuple[str, str, str], ...]
    unprotected: tuple[str, ...]


def state(privacy: Privacy) -> Statement:
    """The statement for one run."""
    if privacy.epsilon is None:
        return Statement(
            headline="This run has no privacy guarantee.",
            sentences=(
                "No noise was added. Whoever sees the shared model, or any sum on the way to it, may learn what single "
                "people did; that histories stay on the clients does not prevent this by itself.",
                "Use it to see what the model can do at best, and never ship it for people's real histories.",
            ),
            warning="",
            facts=(("Epsilon", "none", "no limit to what can be learned about one person"),),
            unprotected=("Everything: every person's history.", *privacy.unprotected),
        )
    return Statement(
        headline=_headline(privacy),
        sentences=(_odds(privacy, privacy.epsilon), _belief(privacy.epsilon), _strength(privacy.epsilon)),
        warning=_warning(privacy),
        facts=_facts(privacy, privacy.epsilon),
        unprotected=privacy.unprotected or (_MORE,),
    )


def _headline(privacy: Privacy) -> str:
    epsilon = privacy.epsilon or 0.0
    viewer = {
        "local": "Whoever sees what the clients send, the server included,",
        "central": "Whoever sees the shared model, but not the server itself,",
    }.get(privacy.trust, "Whoever sees the shared model and every sum that led to it")
    able = "can hardly tell" if epsilon <= 1 else "is limited in how well they can tell"
    return f"{viewer} {able} whether {_protected(privacy)[1]}."


def _protected(privacy: Privacy) -> tuple[str, str, str]:
    return _PROTECTED.get(privacy.unit, _PROTECTED["user"])


def _odds(privacy: Privacy, epsilon: float) -> str:
    delta = f"{figures.short(privacy.delta)} ({figures.one_in(privacy.delta)})"
    return (
        f"Whatever they see would have been at most {_factor(epsilon)} times as likely, or as unlikely, had "
        f"{_protected(privacy)[2]} (this factor is e to the power epsilon = {figures.epsilon(epsilon)}). The promise "
        f"may fail with a probability of at most delta = {delta}."
    )


def _belief(epsilon: float) -> str:
    """By Bayes' rule an even prior grows at most to e^epsilon / (1 + e^epsilon)."""
    sure = 1 / (1 + math.exp(-epsilon))
    percent = math.ceil(sure * 1000 - 1e-9) / 10
    bound = f"at most {percent:g} % sure" if percent < 100 else "almost certain (above 99.9 %) in the worst case"
    return f"Someone for whom it was a coin toss before could be {bound} after seeing it."


def _strength(epsilon: float) -> str:
    if epsilon <= 1:
        return "This is a strong guarantee."
    if epsilon <= 4:
        return (
            "This is a moderate guarantee: it limits what can be learned, and a determined observer may learn a little."
        )
    if epsilon <= 10:
        return (
            "As a worst case, against an observer who knows everything else, this is a weak promise. Attacks that are "
            "known usually achieve far less than it allows, but only the bound is guaranteed."
        )
    return "At this epsilon the formal promise is close to none: treat the result as protected by little."


def _factor(epsilon: float) -> str:
    if epsilon > 30:
        return f"10 to the power {math.ceil(epsilon / math.log(10))}"
    factor = math.exp(epsilon)
    return figures.number(math.ceil(factor)) if factor >= 10 else f"{math.ceil(factor * 100 - 1e-9) / 100:g}"


def _warning(privacy: Privacy) -> str:
    source = privacy.noise_source or ""
    if "seeded" not in source and "simulation" not in source:
        return ""
    return (
        "This was a simulation. Its noise is drawn from the experiment's public seed, so that the run can be repeated; "
        "whoever knows the seed can subtract it. This page tells what the same settings promise on real devices with "
        "secret noise. These files themselves guarantee nothing."
    )


def _facts(privacy: Privacy, epsilon: float) -> tuple[tuple[str, str, str], ...]:
    adjacency = _ADJACENCIES.get(privacy.adjacency, "as declared in the ledger")
    budget = "" if privacy.target_epsilon is None else f" of a budget of {figures.epsilon(privacy.target_epsilon)}"
    facts = [
        ("Unit", privacy.unit, f"what is protected is {_protected(privacy)[0]}"),
        ("Adjacency", privacy.adjacency, f"the two worlds that are compared: {adjacency}"),
        ("Trust", privacy.trust, _TRUST.get(privacy.trust, "as declared in the ledger")),
        ("Epsilon", figures.epsilon(epsilon), f"spent by the whole run{budget}; smaller is more private"),
        ("Delta", figures.short(privacy.delta), "the probability that the promise does not cover"),
    ]
    if privacy.noise_multiplier is not None:
        clip = "" if privacy.clip_norm is None else f", which is {privacy.clip_norm:g}"
        noise = (
            f"standard deviation of the noise in a round's sum, over the bound on one person's part of it{clip}; where "
            "rounds spend unequal shares, that of as many equal rounds at the same cost"
        )
        facts.append(("Noise multiplier", f"{privacy.noise_multiplier:.4g}", noise))
    if privacy.accountant:
        facts.append(("Accountant", privacy.accountant, "the method that adds up the rounds"))
    if privacy.integers is not None:
        both = privacy.integers
        remark = (
            f"of the same noise on integers, as devices add it ({both.accountant}); Gaussian noise costs "
            f"{figures.epsilon(both.gaussian_epsilon)} by the same conversion"
        )
        facts.append(("Epsilon on integers", figures.epsilon(both.epsilon), remark))
    if privacy.aggregation:
        how, _, remark = privacy.aggregation.partition(": ")
        facts.append(("Aggregation", how, remark))
    if privacy.noise_source:
        source, _, remark = privacy.noise_source.partition(", ")
        facts.append(("Noise source", source, remark))
    return tuple(facts)
