"""The round on Apple's pfl: `FederatedAveraging` on a `SimulatedBackend` with its Gaussian mechanism.

A client's own vector is a parameter of the module that pfl trains along with the shared ones and leaves out of what is
summed (it is not in the model's variable map).
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend  # type: ignore[import-not-found]
from pfl.algorithm.base import NNAlgorithmParams  # type: ignore[import-not-found]
from pfl.algorithm.federated_averaging import FederatedAveraging  # type: ignore[import-not-found]
from pfl.data.dataset import Dataset  # type: ignore[import-not-found]
from pfl.data.federated_dataset import FederatedDataset  # type: ignore[import-not-found]
from pfl.hyperparam import NNTrainHyperParams  # type: ignore[import-not-found]
from pfl.model.pytorch import PyTorchModel  # type: ignore[import-not-found]
from pfl.privacy.gaussian_mechanism import GaussianMechanism  # type: ignore[import-not-found]
from pfl.privacy.privacy_mechanism import (  # type: ignore[import-not-found]
    CentrallyAppliedPrivacyMechanism,
    NormClippingOnly,
)
from torch import Tensor

from simulations.benchmarks.peers.serving import Sum, Task, serve
from simulations.benchmarks.peers.torch_loop import Mf


class Module(Mf):
    """What pfl asks of a module."""

    def loss(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """The sum of a batch's losses."""
        summed: Tensor = self(positives, negatives)
        return summed

    def metrics(self, *_: Tensor) -> dict[str, Any]:
        """None are wanted."""
        return {}


class PersonalAveraging(FederatedAveraging):  # type: ignore[misc]  # pfl is untyped
    """Federated averaging where each client starts from its own vector."""

    def train_one_user(self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
        """Put the client's vector in, then as ever."""
        with torch.no_grad():
            model.pytorch_model.user.copy_(user_dataset.metadata["start"])
        return super().train_one_user(initial_model_state, model, user_dataset, central_context)


def main() -> None:
    """Serve rounds."""
    torch.set_num_threads(1)
    task = Task.read(Path(sys.argv[1]))
    pairs, personal = [torch.from_numpy(a) for a in (task.positives, task.negatives)], torch.from_numpy(task.personal)
    module = Module(*task.table.shape)
    start = {"items.weight": torch.from_numpy(task.table), "bias.weight": torch.from_numpy(task.bias)[:, None]}
    module.load_state_dict({**start, "user": personal[0]})
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    del model.variable_map["user"]
    edges = task.indptr.tolist()
    clients = [
        Dataset((pairs[0][first:last], pairs[1][first:last]), metadata={"start": start})
        for first, last, start in zip(edges, edges[1:], personal, strict=False)
    ]
    algorithm = PersonalAveraging()
    settings = NNAlgorithmParams(2**31, 2**31, task.clients, None)
    training = NNTrainHyperParams(task.batch_size, 1, task.learning_rate)
    relative = task.noise_std / task.clip_norm
    mechanisms = {True: GaussianMechanism(task.clip_norm, relative), False: NormClippingOnly(2, task.clip_norm)}
    backends = {}
    for noise, mechanism in mechanisms.items():
        data = FederatedDataset(clients.__getitem__, itertools.cycle(range(task.clients)).__next__)
        backends[noise] = SimulatedBackend(data, None, [CentrallyAppliedPrivacyMechanism(mechanism)])

    def run(noise: bool) -> Sum:
        (context,), _, _ = algorithm.get_next_central_contexts(model, 1, settings, training)
        summed, _ = backends[noise].gather_results(model, algorithm, central_context=context)
        return summed["items.weight"].numpy(), summed["bias.weight"][:, 0].numpy()

    serve(run)
