"""The round as research code has it: one module, one SGD and a loop a client, in plain PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from simulations.benchmarks.peers.serving import Sum, Task, serve


class Mf(nn.Module):
    """Matrix factorisation, one client's vector beside the shared arrays."""

    def __init__(self, n_items: int, dimension: int) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, dimension)
        self.bias = nn.Embedding(n_items, 1)
        self.user = nn.Parameter(torch.zeros(dimension))

    def forward(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """The sum of the BPR losses of pairs ``[B]``."""
        score = self.items(positives) @ self.user + self.bias(positives).squeeze(-1)
        other = self.items(negatives) @ self.user + self.bias(negatives).squeeze(-1)
        return -nn.functional.logsigmoid(score - other).sum()


def main() -> None:
    """Serve rounds."""
    torch.set_num_threads(1)
    task = Task.read(Path(sys.argv[1]))
    start = {"items.weight": torch.from_numpy(task.table), "bias.weight": torch.from_numpy(task.bias)[:, None]}
    personal, pairs = torch.from_numpy(task.personal), [torch.from_numpy(a) for a in (task.positives, task.negatives)]
    module = Mf(*task.table.shape)

    def run(noise: bool) -> Sum:
        total = {name: torch.zeros_like(array) for name, array in start.items()}
        for client in range(task.clients):
            module.load_state_dict({**start, "user": personal[client]})
            optimizer = torch.optim.SGD(module.parameters(), lr=task.learning_rate)
            first, last = (int(edge) for edge in task.indptr[client : client + 2])
            for at in range(first, last, task.batch_size):
                batch = slice(at, min(at + task.batch_size, last))
                optimizer.zero_grad()
                module(pairs[0][batch], pairs[1][batch]).backward()
                optimizer.step()
            with torch.no_grad():
                learned = module.state_dict()
                change = {name: learned[name] - start[name] for name in start}
                norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(c) for c in change.values()]))
                factor = torch.clamp(task.clip_norm / norm, max=1.0)
                for name, array in change.items():
                    total[name] += factor * array
        if noise:
            total = {name: array + task.noise_std * torch.randn_like(array) for name, array in total.items()}
        return total["items.weight"].numpy(), total["bias.weight"][:, 0].numpy()

    serve(run)
