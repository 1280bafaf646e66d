"""The round: cohort, plan, aggregate, checkpoint, resume. No I/O but the checkpoint, no flwr."""
