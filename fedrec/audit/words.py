"""Plans and explanations as plain text, in columns that a terminal and a pipe show alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedrec.audit.plan import MF_COORDINATES, Plan, Step
from fedrec.audit.recorded import Expected, record
from fedrec.audit.views import UNITS, Coalition, Epsilons, View
from fedrec.reporting import figures

if TYPE_CHECKING:
    from fedrec.audit.explain import Explanation

_NOISES = {"skellam": "on integers (Skellam)", "gaussian": "continuous (Gaussian)"}


def plan_lines(plan: Plan) -> Iterator[str]:
    """The whole plan."""
    question = plan.question
    yield (
        f"Plan: {_count(question.users, 'user')} asked in each of {_count(question.rounds, 'round')}; unit "
        f"{question.unit}, trust {question.trust}, delta {figures.short(question.delta)}"
    )
    yield from ("", "Who answers")
    yield from _columns(_cohort(plan))
    yield from ("", "The noise of a round")
    rows = [
        (_NOISES[noise.kind], f"{noise.noise_multiplier:.4g}", *epsilons(noise.epsilon), noise.accountant)
        for noise in plan.noises
    ]
    yield from _columns([("", "multiplier", "epsilon, user", "epsilon, interaction", "accountant"), *rows])
    if plan.second is not None:
        name, epsilon = plan.second
        yield f"  {name} gives epsilon {shown(epsilon)} for the first, at unit {question.unit}"
    yield from ("", "What a client sends and receives in a round")
    yield from _columns(_client(plan))
    if plan.aggregation is not None:
        yield f"  secure aggregation: {plan.aggregation.describe()}"
    yield from ("", "Epsilon of the whole run, by observer")
    yield from view_lines(plan.views)
    if plan.coalitions:
        yield from ("", "If clients of the minimum cohort tell their noise to the server or to each other")
        yield from coalition_lines(plan.coalitions)
    yield from ("", "What other budgets would cost (HR@10 over the whole catalogue, and its part without privacy)")
    yield from _columns(_ladder(plan))
    yield from ("", *(f"- {note}" for note in notes(plan)))


def explanation_lines(told: Explanation) -> Iterator[str]:
    """The whole explanation."""
    run, statement = told.run, told.statement
    opening, summary = run.opening, run.summary
    state = "" if told.finished else " (not finished: what was spent so far)"
    data = run.experiment.data.name if summary is None else summary.dataset.name
    yield f"{run.folder.root}: {run.experiment.model.name} on {data}{state}"
    yield from ("", statement.headline, *statement.sentences)
    if statement.warning:
        yield f"Simulation: no guarantee. {statement.warning}"
    if told.reckoning is not None:
        yield from ("", f"Epsilon of all {_count(len(run.attempts), 'charge')} at delta {figures.short(opening.delta)}")
        yield from _columns(_reckonings(told))
        yield from ("", "Who sees what, and what holds against them")
        for view in told.views:
            user, interaction = epsilons(view.epsilon)
            yield f"  {view.observer} sees {view.sees}"
            yield (
                f"    epsilon {user} (user), {interaction} (interaction): {view.why}"
                if view.epsilon
                else f"    {view.why}"
            )
    if told.coalitions:
        yield from ("", "If clients of the minimum cohort tell their noise to the server or to each other")
        yield from coalition_lines(told.coalitions)
    if run.attempts:
        yield from ("", "How it adds up", f"  {told.composition}")
        yield from (
            "",
            f"Single vectors: {run.aggregation or 'the run does not say how they were kept from the server'}",
        )
        yield f"Noise: {opening.noise}"
    yield from ("", "What is not protected", *(f"- {text}" for text in told.unprotected))
    if told.faults:
        yield from ("", "The record is at fault", *(f"- {fault}" for fault in told.faults))


def _reckonings(told: Explanation) -> list[tuple[str, ...]]:
    """The declared figure, its check, and the same noise reckoned in other ways."""
    opening, reckoning = told.run.opening, told.reckoning
    budget = "" if opening.epsilon is None else f", of a budget of {figures.epsilon(opening.epsilon)}"
    rows: list[tuple[str, ...]] = []
    for unit in UNITS:
        mark = f"{told.accountant}, as declared{budget}" if unit == opening.unit else told.accountant
        rows.append((unit, shown(told.epsilon[unit]), mark))
    if told.second is not None:
        rows.append((opening.unit, shown(told.second[1]), f"{told.second[0]}, an independent check"))
    if reckoning is not None:
        same = f"the same noise, {opening.unit}"
        rows += [
            (same, shown(reckoning.gaussian_pld), "if continuous (Gaussian), by its privacy loss distribution"),
            (same, shown(reckoning.gaussian_rdp), "if continuous, under the conversion from Rényi divergence"),
        ]
        if reckoning.skellam_rdp is not None:
            rows.append((same, shown(reckoning.skellam_rdp), "if on integers (Skellam), under the same conversion"))
    return rows


def view_lines(views: Sequence[View]) -> Iterator[str]:
    """Observers and what holds against them."""
    rows = [(view.observer, *epsilons(view.epsilon), view.why) for view in views]
    yield from _columns([("", *UNITS, ""), *rows])


def coalition_lines(coalitions: Sequence[Coalition]) -> Iterator[str]:
    """What remains as more clients collude."""
    rows = [
        (f"{figures.number(one.colluders)} ({100 * one.share:.3g} %)", *epsilons(one.epsilon)) for one in coalitions
    ]
    yield from _columns([("colluders", *UNITS), *rows])


def epsilons(found: Epsilons) -> tuple[str, ...]:
    """Epsilon by unit: a dash where there is nothing to hide, ``none`` where nothing is promised."""
    if not found:
        return (figures.DASH,) * len(UNITS)
    return tuple(shown(found[unit]) for unit in UNITS)


def shown(epsilon: float | None) -> str:
    """An epsilon, or that there is none."""
    return "none" if epsilon is None else figures.epsilon(epsilon)


def notes(plan: Plan) -> Iterator[str]:
    """What the figures rest on, a sentence each."""
    question, recorded = plan.question, record()
    data, seeds = recorded["dataset"], len(recorded["seeds"])
    yield (
        f"Utility is not computed: it is that of recorded runs on {data['name']} ({figures.number(data['users'])} "
        f"users, {figures.number(data['items'])} items, means of {seeds} seeds), for each model the run whose noise "
        "for each user is nearest. Other data, other sizes and other settings differ."
    )
    if any(one.fit != "within" for step in plan.ladder for one in step.expected):
        yield (
            "Beyond what was recorded the nearest run is shown: marked > where it had more noise, so that less is lost "
            "than is shown, and < where it had less."
        )
    if question.coordinates == MF_COORDINATES:
        yield (
            f"{figures.number(MF_COORDINATES)} coordinates are a round of the default model on ml-100k: 1,682 items "
            "with vectors of 64 and a bias; --coordinates gives another size."
        )
    yield (
        "A retried round is a new charge, and more answers than the minimum cohort add noise that is not counted in "
        "anybody's favour."
    )
    if question.unit == "user" and question.interaction is None:
        yield (
            "The figure for an interaction counts it as replacing the whole vector of a user (two clip norms), because "
            "no smaller bound is given; --interaction-clip gives one."
        )
    if question.unit == "interaction" and question.trust == "local":
        yield "Where local training carries the noise, every step of it counts as a round here."
    if question.trust == "central":
        yield "The server sees every clipped vector: this is for comparison in simulations, and a device refuses it."
    if question.delta >= 1 / question.users:
        yield f"Delta {figures.short(question.delta)} is not below 1 / users: it may fail for one whole user; lower it."
    yield "Settings chosen by looking at private data are not accounted for."


def _cohort(plan: Plan) -> list[tuple[str, ...]]:
    question = plan.question
    sure = f"every round keeps so many with probability {100 * plan.survival:.3g} %"
    gone = f"if each user stays away with probability {100 * question.dropout:.3g} %"
    return [
        ("minimum cohort", figures.number(plan.min_cohort), f"{sure}, {gone}"),
        ("colluders", figures.number(plan.colluders), "of them, whose shares of the noise do not count"),
    ]


def _client(plan: Plan) -> list[tuple[str, ...]]:
    units = "" if plan.share_units is None else f" = {figures.number(plan.share_units)} integer units"
    where = f"standard deviation on each of {figures.number(plan.question.coordinates)} coordinates"
    ring = "float64" if plan.ring_bits is None else f"{plan.ring_bits}-bit integers"
    return [
        ("share of the noise", f"{plan.share_std:.3g} clip norms{units}", where),
        ("up", figures.size(plan.up_bytes), f"one vector of {ring}"),
        ("down", figures.size(plan.down_bytes), "the shared model in float32"),
    ]


def _ladder(plan: Plan) -> list[tuple[str, ...]]:
    models = [one.model for one in plan.ladder[0].expected]

    def row(step: Step) -> tuple[str, ...]:
        mark = "this plan" if step is plan.own else ""
        own = (shown(step.epsilon), f"{step.noise_multiplier:.4g}")
        return (*own, *(_utility(one) for one in step.expected), mark)

    return [("epsilon", "multiplier", *models, ""), *(row(step) for step in plan.ladder)]


def _utility(one: Expected) -> str:
    """The recorded hit rate, marked where the plan lies outside of what was recorded."""
    mark = {"within": "", "less noise": ">", "more noise": "<"}[one.fit]
    return f"{mark}{one.nearest.mean['full']['hr@10']:.3f} ({100 * (1 - one.lost()):.0f} %)"


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as aligned columns, indented; the last column is as wide as it likes."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        yield ("  " + "  ".join([*cells, row[-1]])).rstrip()


def _count(number: int, noun: str) -> str:
    return f"{figures.number(number)} {noun}{'' if number == 1 else 's'}"
