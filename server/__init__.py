"""The server side of a federation: its Flower entry point."""
