"""Protocols, metrics and the leak test."""
