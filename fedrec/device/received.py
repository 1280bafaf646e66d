"""What a device has received and recommends from: the public catalogue and the last model, as its store holds them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.config import Experiment, parse
from fedrec.data.interactions import Catalogue, Ints
from fedrec.data.safetensors import metadata
from fedrec.data.sources.devices import DevicesConfig
from fedrec.device import catalogue as catalogues
from fedrec.device.shared import DOCUMENT
from fedrec.device.store import Store
from fedrec.errors import ConfigError, DeviceError
from fedrec.models.base import Recommender, Shared, build

SYNC = "run 'fedrec device sync'"

NO_MODEL = "No model has arrived yet: these are picked by item features alone."
OTHER_CATALOGUE = "The last model belongs to another catalogue: these are picked by item features alone."


@dataclass(frozen=True, eq=False)
class Received:
    """The catalogue, and the last model with the catalogue that it was trained on, which may be an older one.

    Attributes:
        catalogue: the newest.
        model: None where there is none that can be used; ``note`` says why.
        shared: its arrays.
        known: the catalogue that the model knows; the newest without a model.
        known_as: of each item of ``catalogue``, its number in ``known``; -1 where it is new, int64 ``[n_items]``.
        experiment: the digest of the model's experiment, "" without a model.
        round: after which it was sent.
        note: what a reader of recommendations should know, "" for nothing.
    """

    catalogue: Catalogue
    model: Recommender | None
    shared: Shared
    known: Catalogue
    known_as: Ints
    experiment: str = ""
    round: int = 0
    note: str = ""

    @classmethod
    def without_model(cls, catalogue: Catalogue, note: str) -> Received:
        return cls(catalogue, None, {}, catalogue, np.arange(len(catalogue)), note=note)


def state(store: Store) -> list[tuple[object, ...]]:
    """What tells whether `load` would find something else than before; quick."""
    return store.query("SELECT name, sha256 FROM documents WHERE name IN ('catalogue', 'model') ORDER BY name")


def about(store: Store) -> dict[str, str | int] | None:
    """Of which experiment and round the last model is; None without one.

    Raises:
        DeviceError: if it is damaged.
    """
    content = store.get(DOCUMENT)
    if content is None:
        return None
    _, experiment, round_ = _read(content)
    return {"experiment": experiment, "round": round_}


def load(store: Store) -> Received:
    """The newest catalogue and model of a store.

    Raises:
        DeviceError: if there is no catalogue yet, or a document is damaged.
    """
    found = catalogues.load(store)
    if found is None:
        raise DeviceError(f"This device has no catalogue of items yet; {SYNC} once it is enrolled.")
    catalogue, digest = found
    content = store.get(DOCUMENT)
    if content is None:
        return Received.without_model(catalogue, NO_MODEL)
    shared, digest_of_experiment, round_ = _read(content)
    experiment = _experiment(store, digest_of_experiment)
    model, wanted = build(experiment), _catalogue_of(experiment)
    known, known_as = catalogue, np.arange(len(catalogue))
    if wanted != digest:
        older = store.get(f"catalogue-{wanted}")
        if older is None:
            return Received.without_model(catalogue, OTHER_CATALOGUE)
        known = catalogues.from_bytes(older)
        known_as = _places(catalogue, known)
    return Received(catalogue, model, shared, known, known_as, digest_of_experiment, round_)


def _read(content: bytes) -> tuple[Shared, str, int]:
    """A model's arrays, its experiment and its round."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        shared = load_arrays(content)
        about = metadata(content)
        return shared, str(about["experiment"]), int(about["round"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DeviceError(f"The stored model is not readable ({error}); {SYNC} to get it again.") from error


def _experiment(store: Store, digest: str) -> Experiment:
    """The experiment of a digest, as the store holds it."""
    text = store.get(f"experiment-{digest}")
    if text is None:
        raise DeviceError(f"The store holds a model but not its experiment {digest[:12]}; {SYNC} to get both again.")
    try:
        experiment = parse(text.decode(), f"the stored experiment {digest[:12]}")
    except (ConfigError, UnicodeDecodeError) as error:
        raise DeviceError(f"The model's experiment cannot be read ({error}) Update fedrec, or {SYNC}.") from error
    if experiment.digest() != digest:
        raise DeviceError(f"The stored experiment {digest[:12]} is another one; {SYNC} to get it again.")
    return experiment


def _catalogue_of(experiment: Experiment) -> str:
    """The digest of the catalogue that an experiment is about."""
    if not isinstance(experiment.data, DevicesConfig):
        raise DeviceError(f"The model's experiment is about '{experiment.data.name}', not about devices; {SYNC}.")
    return experiment.data.catalogue


def _places(catalogue: Catalogue, known: Catalogue) -> Ints:
    """Where the items of one catalogue stand in another, -1 where they do not."""
    place = {item: number for number, item in enumerate(known.ids.tolist())}
    return np.array([place.get(item, -1) for item in catalogue.ids.tolist()], np.int64)
