"""fedrec: private federated recommenders whose privacy cost is counted and provable."""

__version__ = "0.1.0"
