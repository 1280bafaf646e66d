"""The client side of a federation: its Flower entry point."""
