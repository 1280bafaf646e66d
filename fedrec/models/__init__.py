"""Recommenders: one a file, each with its config class above it."""
