"""Data sources, one a file; `fedrec.registry.SOURCES` finds them by name."""
