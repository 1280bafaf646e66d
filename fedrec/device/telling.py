"""What the command line and the loopback API tell of recommendations and budget: as plain values, and as lines."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fedrec.device.budget import NOT_PROVED, PROVED, Checked, Spending
from fedrec.device.recommend import Recommendations


def recommendations(found: Recommendations) -> dict[str, Any]:
    """A list as JSON holds it; each reason also as a ``text``."""
    plain = asdict(found)
    for told, one in zip(plain["items"], found.items, strict=True):
        for reason, text in zip(told["reasons"], one.reasons, strict=True):
            reason["text"] = str(text)
    return plain


def recommendation_lines(found: Recommendations, why: bool) -> list[str]:
    """A list for people, with the reasons under each item if asked for."""
    lines = [found.note] if found.note else []
    width = len(str(len(found.items)))
    for place, one in enumerate(found.items, start=1):
        lines.append(f"{place:>{width}}  {one.score:+8.3f}  {one.title}  [{one.item}]")
        if why:
            lines += [f"{'':{width}}  {reason.amount:+8.3f}    {reason}" for reason in one.reasons]
    return lines or ["There is nothing left to recommend: every item of the catalogue is known or hidden."]


def budget(spent: Spending, checked: Checked | None) -> dict[str, Any]:
    """Spending, and what came of a check, as JSON holds it."""
    plain = asdict(spent)
    for run in plain["runs"]:
        for charge in run["charges"]:
            del charge["mechanism"], charge["events"]
            place = (charge["round"], charge["attempt"])
            if checked is not None and run["experiment"] == checked.experiment:
                charge["standing"] = checked.standing[place]
    if checked is None:
        return plain
    ledger = asdict(checked)
    del ledger["standing"]
    ledger["asked"] = [{"round": round_, "attempt": attempt} for round_, attempt in checked.asked]
    return {**plain, "ledger": {**ledger, "proved": PROVED if _held(checked) else (), "not_proved": NOT_PROVED}}


def budget_lines(spent: Spending, checked: Checked | None) -> list[str]:
    """The same for people."""
    lines = [
        f"epsilon at unit '{spent.unit}' and delta {spent.delta:g}, by what this device has answered:",
        f"  today ({spent.today} UTC)  {spent.spent_today:.4g} of {spent.epsilon_day:g}",
        f"  in all                  {spent.spent:.4g} of {spent.epsilon_total:g}",
    ]
    for run in spent.runs:
        lines.append(f"experiment {run.experiment[:12]}: epsilon {run.epsilon:.4g}")
        for charge in run.charges:
            standing = ""
            if checked is not None and run.experiment == checked.experiment:
                standing = f"  {checked.standing[charge.place]}"
            when = datetime.fromtimestamp(charge.at, UTC).strftime("%Y-%m-%d %H:%M")
            lines.append(
                f"  {when}  round {charge.round}, attempt {charge.attempt}  {charge.release}, "
                f"{charge.cohort} devices{standing}"
            )
    return lines if checked is None else [*lines, *_ledger_lines(checked)]


def _ledger_lines(checked: Checked) -> list[str]:
    if not checked.experiment and not checked.faults:
        return ["ledger: none is here yet; run 'fedrec device sync' once this device is enrolled"]
    lines = [f"FAULT  {fault}" for fault in checked.faults]
    if not checked.experiment:
        return lines
    lines.append(f"ledger of {checked.experiment[:12]}: {checked.lines} signed lines, root {checked.root}")
    counted = "no bound" if checked.epsilon is None else f"an epsilon of {checked.epsilon:.4g}"
    lines.append(f"  by key {checked.key}; it counts {counted} for this device")
    if checked.asked:
        lines.append(f"  {len(checked.asked)} attempts asked this device without an answer: they cost it nothing")
    if checked.elsewhere:
        lines.append(f"  {checked.elsewhere} charges are of other runs, whose ledgers are not here")
    if _held(checked):
        lines += ["proved:", *(f"  {text}" for text in PROVED)]
    return [*lines, "not proved:", *(f"  {text}" for text in NOT_PROVED)]


def _held(checked: Checked) -> bool:
    return bool(checked.experiment) and not checked.faults
