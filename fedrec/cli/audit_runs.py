"""`fedrec audit canary` and `fedrec audit attack`: run, say what came out, write it where it is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from fedrec.audit import attacks, canary_run
from fedrec.audit.attacks import Attack, AttackResult
from fedrec.audit.detectors import adjusted
from fedrec.audit.judgement import Judgement
from fedrec.config import load
from fedrec.errors import RunFolderError
from fedrec.reporting.folder import plain, replace_file


def canary(
    experiment: str,
    overrides: list[str],
    canaries: int | None,
    rows: int | None,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Audit with canaries; exit 1 where a release is weaker than declared."""
    found = canary_run.audit(load(experiment, overrides), canaries, rows, seed)
    _end(found.as_json(), canary_lines(found), canary_run.RESULT, out, as_json)
    if not found.sound:
        raise typer.Exit(1)


def attack(
    experiment: str,
    overrides: list[str],
    view: str,
    targets: int | None,
    shadows: int,
    runs: int,
    seed: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Attack; exit 1 where an attack does better than is declared possible."""
    found = attacks.attack(load(experiment, overrides), view, targets, shadows, runs, seed)
    _end(found.as_json(), attack_lines(found), attacks.RESULT, out, as_json)
    if not found.sound:
        raise typer.Exit(1)


def canary_lines(found: Judgement) -> list[str]:
    """The result in plain text."""
    about = found.about
    lines = [
        f"{about['model']} on {about['data']}: {about['canaries']} canaries and as many by a coin, beside "
        f"{about['users']} users, {len(found.rounds)} rounds, trust {about['trust']}"
    ]
    for unit, level in found.levels.items():
        lines.append(f"unit {unit}, delta {about['delta']:g}")
        lines.append(f"  declared    epsilon {level.epsilon:.3f}  ({about['accountant']})")
        lines.append(f"  as Gaussian epsilon {level.gaussian_epsilon:.3f}  (exact, for this deviation)")
        for name, box in (("white-box", level.white_box), ("black-box", level.black_box)):
            lines.append(f"  {name:<11} epsilon {box.epsilon:.3f}  [{box.low:.3f}, {box.high:.3f}]")
        if level.one_run is not None:
            one = level.one_run
            lines.append(
                f"  one run     epsilon at least {one.epsilon:.3f}  ({one.correct} of {one.guesses} guesses right)"
            )
    for finding, value in zip(found.findings, adjusted(found.findings), strict=True):
        lines.append(f"  {finding.name:<30} p = {value:<9.3g} {finding.detail}")
    verdict = "consistent with what is declared" if found.sound else "WEAKER than declared"
    return [*lines, f"{verdict}: the smallest p-value of all tests is {found.p_value:.3g} after Holm"]


def attack_lines(found: AttackResult) -> list[str]:
    """The result in plain text."""
    about = found.about
    lines = [
        f"{about['model']} on {about['data']}, seen by: {found.view}; {about['targets']} targets a game, "
        f"{about['shadow_runs']} shadow runs, {about['runs']} runs",
        "  advantage over chance    private                  without privacy          declared possible",
    ]
    lines += [_attack_line(name, one) for name, one in found.attacks.items()]
    weak = "consistent with what is declared" if found.sound else "WEAKER than declared"
    return [*lines, f"{weak}: intervals at 95%; 0 is chance, 1 is certainty"]


def _attack_line(name: str, one: Attack) -> str:
    cells = (
        f"{side.advantage:+.3f} [{side.low:+.3f}, {side.high:+.3f}]" for side in (one.private, one.without_privacy)
    )
    private, plain_ = cells
    return f"  {name:<24} {private:<24} {plain_:<24} {'-' if one.bound is None else f'{one.bound:.3f}'}"


def _end(result: Mapping[str, Any], lines: list[str], name: str, out: Path | None, as_json: bool) -> None:
    """Print, and write the result where it is asked for."""
    values = plain(result)
    typer.echo("\n".join(lines))
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"Cannot write to '{out}': {error.strerror}; choose another --out.") from error
        replace_file(out / name, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())
        typer.echo(f"  written to {out / name}")
    if as_json:
        typer.echo(json.dumps(values, allow_nan=False))
