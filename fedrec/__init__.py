"""fedrec: private federated recommenders whose privacy cost is counted and provable."""

from importlib.metadata import version

__version__ = version("fedrec")
