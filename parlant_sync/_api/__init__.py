"""The REST calls of a Parlant server: what may be repeated, how often, how fast."""
