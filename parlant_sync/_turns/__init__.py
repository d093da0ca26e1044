"""Where a turn begins and ends, and what it said."""
