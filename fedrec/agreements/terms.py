"""The terms of secure aggregation that a server and its devices work out, each from its own plan of an attempt."""

from __future__ import annotations

from functools import partial

from fedrec.federation.round import Federation, Plan
from fedrec.secagg import parameters
from fedrec.secagg.session import Terms

CORRUPT = 0.1
"""The share of participants assumed to be in league with the server, where the experiment does not assume more."""


DROPOUT = 0.1, 0.3
"""The share of participants that may drop out and leave enough shares: at least, and at most (more take many more
neighbours); in between it is the share that the minimum cohort lets go."""


def terms_of(federation: Federation, plan: Plan) -> Terms:
    """What secure aggregation of an attempt rests on."""
    least = plan.mechanism.min_cohort
    corrupt = max(CORRUPT, plan.mechanism.colluders / least)
    dropout = min(max(DROPOUT[0], 1 - least / len(plan.cohort.users)), DROPOUT[1])
    run = bytes.fromhex(federation.experiment.digest())
    return Terms(run, least, choose=partial(parameters.choose, corrupt=corrupt, dropout=dropout))
