"""The ClientApp that `flwr run .` starts in a checkout: the one of the installed fedrec."""

from fedrec.flower.clientapp import app

__all__ = ["app"]
