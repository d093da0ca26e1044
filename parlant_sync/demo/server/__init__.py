"""The demo server. Runs with nothing but ``parlant``: this folder imports nothing around it."""
