"""The terms of secure aggregation that a server and its devices work out, each from its own plan of an attempt."""

from __future__ import annotations

from functools import partial

from fedrec.federation.round import Federation, Plan
from fedrec.secagg import parameters
from fedrec.secagg.session import Terms

CORRUPT = 0.1
"""The share of participants assumed to be in league with the server, where the experiment does not assume more."""


def terms_of(federation: Federation, plan: Plan) -> Terms:
    """What secure aggregation of an attempt rests on."""
    assumed = max(CORRUPT, plan.mechanism.colluders / plan.mechanism.min_cohort)
    run = bytes.fromhex(federation.experiment.digest())
    return Terms(run, plan.mechanism.min_cohort, choose=partial(parameters.choose, corrupt=assumed))
