"""An experiment as it runs on real devices: what it must say, what is set for it, and whether it can run at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fedrec.agreements.terms import terms_of
from fedrec.config import Experiment, resolve
from fedrec.data.ingest import catalogue_of
from fedrec.data.interactions import Catalogue
from fedrec.data.items import ItemColumns, format_of, layout_of, read_items, records
from fedrec.device.catalogue import digest, to_bytes
from fedrec.errors import ConfigError
from fedrec.federation.planning import make_federation
from fedrec.models.base import require_extras
from fedrec.registry import MODELS
from fedrec.sections import DeploymentConfig

_OPTIONAL = ("title", "year", "genres")


def for_devices(experiment: Experiment, catalogue: Catalogue) -> Experiment:
    """The experiment with what a deployment decides for it, checked as far as it can be without a device.

    The data are the devices' own and their catalogue, noise comes from the secure source, and the engine is Flower.

    Raises:
        ConfigError: if the cohort is not given, or the experiment has no privacy or trusts the server with the noise.
        MissingExtraError: if what its model takes is not installed.
        PrivacyError: if nothing is proved for it.
    """
    privacy, rounds = experiment.privacy, experiment.federation
    if rounds.cohort is None or rounds.min_cohort is None:
        raise ConfigError(
            "A deployment needs federation.cohort and federation.min_cohort: how many devices a round asks, and the "
            "least whose sum may be opened."
        )
    if privacy.epsilon is None or privacy.trust == "central":
        found = "privacy.epsilon = 'none'" if privacy.epsilon is None else "privacy.trust = 'central'"
        raise ConfigError(f"{found} is for simulations: devices refuse it; set a budget and trust 'distributed'.")
    raw = experiment.model_dump(mode="json")
    kept = {"min_rating": experiment.data.min_rating}
    raw["data"] = {"name": "devices", "catalogue": digest(to_bytes(catalogue)), **kept}
    raw["privacy"]["source"] = "secure"
    raw["engine"]["name"] = "flower"
    if raw["training"]["backend"] in ("auto", "numba") and "numpy" in MODELS.get(experiment.model.name).backends:
        raw["training"]["backend"] = "numpy"  # a device is light, and compiles nothing
    raw["deployment"] = (experiment.deployment or DeploymentConfig()).model_dump(mode="json")
    resolved = resolve(raw, "the experiment as devices run it")
    federation = make_federation(resolved, catalogue, rounds.cohort)
    require_extras(federation.model)
    if privacy.trust == "distributed":
        terms = terms_of(federation, federation.plan(1))
        for size in {rounds.cohort, rounds.min_cohort}:
            terms.parameters(size)
    return resolved


def read_catalogue(path: Path, item: str, features: Sequence[str] = ()) -> Catalogue:
    """The catalogue of an items file; its columns ``title``, ``year`` and ``genres`` are taken where it has them.

    Args:
        path: CSV, Parquet, JSON Lines or RecBole atomic file.
        item: the column of the item's id.
        features: numeric columns that become the feature matrix.

    Raises:
        DataError: naming file, line and column of what is wrong.
    """
    format_ = format_of(path)
    layout = layout_of(path, format_)
    _, first = next(records(path, format_, layout), (0, {}))
    there = {name: name for name in _OPTIONAL if name in first}
    columns = ItemColumns(item, there.get("title"), there.get("year"), there.get("genres"), features=tuple(features))
    items = read_items(path, format_, layout, columns)
    return catalogue_of(items)
