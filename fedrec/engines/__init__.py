"""Where a federation runs. Every engine drives the same round."""
