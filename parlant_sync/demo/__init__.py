"""A real Parlant server for demonstrations and tests, and the launcher that runs it."""
