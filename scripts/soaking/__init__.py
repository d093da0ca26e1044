"""``scripts/soak.py``: sessions, turns, readers and faults at random, and a ledger."""
