"""Speed and size beside what one would use instead, in one command: python3 scripts/bench.py [--help].

Makes the project's .venv if there is none, measures for about a quarter of an hour, and prints a table. Nothing but
the package index is asked for anything.
"""

import _python

_python.require()  # before anything that an old Python could not even read

import _bench_command  # noqa: E402

raise SystemExit(_bench_command.main())
