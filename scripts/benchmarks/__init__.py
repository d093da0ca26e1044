"""What scripts/bench.py measures, and how: a server that answers at once, contestants, scenarios, reports."""
