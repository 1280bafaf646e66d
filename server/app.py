"""The ServerApp that `flwr run .` starts in a checkout: the one of the installed fedrec."""

from fedrec.flower.serverapp import app

__all__ = ["app"]
