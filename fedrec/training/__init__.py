"""Local training: the one place where a client learns."""
