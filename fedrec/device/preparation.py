"""Preparation: what takes an accountant is computed once, by the device's agent; a round only reads it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache

from fedrec.config import Experiment, parse
from fedrec.data.interactions import Catalogue
from fedrec.device import catalogue as items
from fedrec.device import tables
from fedrec.device.refusals import Code
from fedrec.device.store import Store
from fedrec.errors import ConfigError, DeviceError, FedrecError, Refusal
from fedrec.federation.planning import Calibration, calibrate, make_federation
from fedrec.federation.round import Federation
from fedrec.models.base import require_extras
from fedrec.privacy.proofs import canonical_json

_WISH, _DONE = "experiment-", "calibration-"
_MOST_CHARACTERS = 2**16
"""Of an experiment's text."""

_MOST_WISHES, _MOST_KEPT, _MOST_TRIES = 16, 64, 3
"""What a server's experiments may leave here: waiting, in all, and how often one is tried that was broken off."""

_OLD = f"SELECT name FROM documents WHERE name LIKE '{_WISH}%' ORDER BY updated DESC, name LIMIT -1 OFFSET ?"  # noqa: S608 - a constant


@lru_cache(maxsize=1)
def experiment_of(text: str) -> Experiment:
    """An experiment as a device runs it: what it sends is to be masked.

    Raises:
        ConfigError: for a text that is none, or far too long.
    """
    if len(text) > _MOST_CHARACTERS:
        raise ConfigError(f"An experiment of {len(text)} characters is longer than any; it is not read.")
    return parse(text, "the server's experiment").replaced(engine={"name": "flower"})


def own_catalogue(store: Store, experiment: Experiment) -> Catalogue:
    """The items that the experiment is about.

    Raises:
        Refusal: if this device has none, or others.
    """
    wanted = experiment.data.model_dump().get("catalogue")
    raw = store.get(items.DOCUMENT)
    if raw is None or items.digest(raw) != wanted:
        held = "none" if raw is None else "another"
        raise Refusal(
            Code.CATALOGUE, f"The experiment is about another catalogue; this device has {held}: fedrec device sync."
        )
    return items.from_bytes(raw)


def federation(store: Store, experiment_text: str) -> Federation:
    """The experiment's plan as this device works it out; light, once it is prepared.

    Raises:
        ConfigError: for a text that is no experiment on devices.
        Refusal: if it is not prepared, which is then noted as a wish for the agent, or cannot be.
    """
    experiment = experiment_of(experiment_text)
    population, digest = _population(experiment), experiment.digest()
    catalogue = own_catalogue(store, experiment)
    found = _calibration(store, digest)
    if found is None:
        if store.get(_WISH + digest) is None and len(wanted(store)) < _MOST_WISHES:
            store.put(_WISH + digest, experiment_text.encode())
        raise Refusal(Code.UNPREPARED, "This device has not prepared the experiment yet; its agent does, in seconds.")
    planned = make_federation(experiment, catalogue, population, found)
    if planned.model.backend != "numba":
        return planned
    # Equal within rounding, and light: a device answers from a new process, in which nothing is compiled.
    training = planned.model.training.model_copy(update={"backend": "numpy"})
    return replace(planned, model=replace(planned.model, training=training))


def wanted(store: Store) -> list[str]:
    """The texts of the experiments that wait for `prepare`."""
    waiting = []
    for name in store.names(_WISH):
        try:
            if _calibration(store, name.removeprefix(_WISH)) is None:
                waiting.append((store.get(name) or b"").decode())
        except Refusal:  # it was tried, and cannot be prepared
            continue
    return waiting


def prepare(store: Store, experiment_text: str) -> None:
    """Compute and keep what `federation` reads. Takes seconds and the accountants: for a process of its own.

    Raises:
        Refusal: if the catalogue is not here; sync and try again.
        FedrecError: if the experiment cannot be run; that is kept as well, so that it is not tried for ever.
    """
    experiment = experiment_of(experiment_text)
    population, catalogue = _population(experiment), own_catalogue(store, experiment)
    # Written first: a step that takes all memory ends this process, and is not to be tried for ever.
    _keep(store, experiment, {"tries": str(_tries(store, experiment.digest()) + 1)})
    try:
        made = calibrate(experiment, catalogue, population)
        planned = make_federation(experiment, catalogue, population, made)
        require_extras(planned.model)
        tables.keep(store, planned.mechanisms)
    except FedrecError as error:
        _keep(store, experiment, {"failed": str(error)})
        raise
    _keep(store, experiment, {"whole": repr(made.whole), "rounds": [repr(sigma) for sigma in made.rounds]})
    store.put(_WISH + experiment.digest(), experiment_text.encode())
    for (name,) in store.query(_OLD, (_MOST_KEPT,)):
        store.remove(name)
        store.remove(_DONE + name.removeprefix(_WISH))


def _tries(store: Store, digest: str) -> int:
    raw = store.get(_DONE + digest)
    return 0 if raw is None else int(json.loads(raw).get("tries", 0))


def _population(experiment: Experiment) -> int:
    """Whom a round may ask at most: all that a plan knows of the population."""
    if experiment.federation.cohort is None:
        raise ConfigError("An experiment on devices needs federation.cohort, the most devices that a round asks.")
    return experiment.federation.cohort


def _keep(store: Store, experiment: Experiment, found: dict[str, str | list[str]]) -> None:
    from fedrec import __version__

    store.put(_DONE + experiment.digest(), canonical_json({**found, "fedrec": __version__}))


def _calibration(store: Store, digest: str) -> Calibration | None:
    """What was prepared by this version of fedrec: another one may calibrate differently."""
    from fedrec import __version__

    raw = store.get(_DONE + digest)
    found = {} if raw is None else json.loads(raw)
    if found.get("fedrec") != __version__:
        return None
    if "failed" in found:
        raise Refusal(Code.UNPREPARED, f"This device cannot run the experiment: {found['failed']}")
    if "tries" in found:
        if int(found["tries"]) < _MOST_TRIES:
            return None
        raise Refusal(Code.UNPREPARED, f"Preparing this was broken off {found['tries']} times; it is given up.")
    try:
        return Calibration(float(found["whole"]), tuple(float(sigma) for sigma in found["rounds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceError(f"The prepared experiment {digest[:8]} cannot be read ({error}); prepare it anew.") from error
