"""The privacy report in the terms of others: the OpenDP deployments registry, and the pyramid of NIST SP 800-226.

The registry's fields are those of a tier 3 record (github.com/opendp/deployments-registry-data, template of 2026). What
only whoever deploys can know is None, and stands in ``to_fill``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODELS = {"distributed": "Distributed", "local": "Local", "central": "Central"}

_ACTORS = {
    "distributed": "Clients keep their histories, clip what they contribute and add a share of the noise. The server "
    "sees sums. Nobody is trusted with single contributions, but enough clients must be honest.",
    "local": "Clients keep their histories, clip what they contribute and add all of the noise. Nobody is trusted.",
    "central": "Clients send clipped contributions; the server sees them, adds the noise and is trusted.",
}


def registry(report: Mapping[str, Any]) -> dict[str, Any]:
    """A draft for the OpenDP registry, from the content of a privacy report."""
    promise, run, trust = report["promise"], report["run"], report["trust"]
    basic: dict[str, Any] = {
        "name": run["experiment"],
        "data_curators": None,
        "description": f"A recommender ({run['model']}) trained with federated learning on {run['dataset']['name']}.",
        "intended_use": None,
        "data_product_type": "Machine learning model",
        "data_product_region": None,
        "data_product_sector": None,
        "publication_date": None,
    }
    parameters = {"epsilon": promise["epsilon"].get(promise["unit"]), "delta": promise["delta"]}
    return {
        "deployment": {
            "basic": basic,
            "dp_variant": {
                "variant_name": "Approximate DP",
                "data_domain": f"interactions of {run['dataset']['users']} users with {run['dataset']['items']} items",
                "unprotected_quantities": "; ".join(report["unprotected"]),
            },
            "privacy_loss": {
                "privacy_unit": promise["unit"],
                "privacy_unit_details": promise["adjacency_means"],
                "number_of_privacy_units": 1,
                "privacy_parameters": parameters,
                "privacy_parameters_details": f"over the whole run; {promise['guarantee']}",
            },
            "deployment_model": {
                "model_name": _MODELS.get(promise["trust"], promise["trust"]),
                "model_name_details": trust["aggregation"]["text"],
                "trust_assumptions": trust["means"],
                "actors": _ACTORS.get(promise["trust"], ""),
                "release_type": "Many releases" if len(report["mechanism"]["releases"]) > 1 else "One release",
                "release_type_details": report["composition"]["method"],
                "data_source_type": "Static",
                "data_source_type_details": "the histories as they were when the run began",
                "access_type": "Non-interactive",
                "access_type_details": "the shared model is released; nobody can query the histories",
            },
            "implementation": {
                "preprocessing_and_hyperparameter_tuning": "; ".join(
                    [*report["data"]["filters"], report["tuning"]["text"]]
                ),
                "mechanisms": f"{report['mechanism']['name']}; noise source: {report['mechanism']['noise_source']}",
                "composition": report["composition"]["method"],
                "post_processing": "the server turns sums into a model, which devices personalise on their own data",
                "justification": None,
                "utility": report["utility"]["text"],
                "additional_information": "; ".join(f"{one['name']}: {one['status']}" for one in report["hazards"]),
            },
        },
        "administrative": {"status": "Draft", "registry_authors": None, "tier": 3},
        "to_fill": [*(f"deployment.basic.{key}" for key, value in basic.items() if value is None), *_TO_FILL],
    }


_TO_FILL = ("deployment.implementation.justification", "administrative.registry_authors")


def pyramid(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """What NIST SP 800-226 asks to evaluate, from the top of its pyramid down, and where it stands here."""
    promise, ledger = report["promise"], report["ledger"]
    epsilon = promise["epsilon"].get(promise["unit"])
    spent = "no epsilon holds" if epsilon is None else f"epsilon {epsilon:.6g} at delta {promise['delta']:g}"
    empirical = [name for name in ("canary", "attack") if report["empirical"][name] is not None]
    lines = {
        "Privacy parameters": (f"{spent}, for the whole run; {promise['guarantee']}", "promise, composition"),
        "Unit of privacy": (f"{promise['unit']}: {promise['adjacency_means']}", "promise"),
        "Algorithms and correctness": (
            f"{report['mechanism']['name']}; the ledger of {ledger['lines']} lines was "
            f"{'verified' if report['verification']['sound'] else 'found at fault'}; empirical audits: "
            f"{', '.join(empirical) or 'none'}",
            "mechanism, composition, verification, empirical",
        ),
        "Utility": (report["utility"]["text"], "utility"),
        "Bias": (
            "noise can cost light users and rare items most; the run's report shows light and heavy users apart",
            "report.html of the run",
        ),
        "Access control": (
            "histories stay on the clients; who may read the run folder and enrol clients is up to the deployment",
            "hazards",
        ),
        "Trust model": (f"{promise['trust']}: {report['trust']['means']}", "trust, observers, coalitions"),
        "Side channels": ("sizes of messages are public numbers; timing is not hidden", "hazards"),
        "Data collection exposure": (
            "raw interactions are never collected; what was derived from them beforehand is listed",
            "data, unprotected",
        ),
    }
    return [{"component": name, "statement": text, "fields": where} for name, (text, where) in lines.items()]
