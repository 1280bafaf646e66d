"""Interactions, their sources and their splits."""

from fedrec.data.interactions import Catalogue, Interactions

__all__ = ["Catalogue", "Interactions"]
