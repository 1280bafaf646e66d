"""Check what a run claims: its ledger, its plan, its report, and the claim itself by experiment."""
