"""Environments with several versions of the Parlant server: python3 scripts/servers.py list|make|python."""

import _python

_python.require()  # before anything that an old Python could not even read

import _servers_command  # noqa: E402

raise SystemExit(_servers_command.main())
