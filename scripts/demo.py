"""The main job in one command: python3 scripts/demo.py [arguments of `parlant-sync demo`].

Makes the project's .venv if there is none, then starts a real Parlant server on this machine and holds a
conversation with it. No account, key or network beyond the package index is needed.
"""

import _python

_python.require()  # before anything that an old Python could not even read

import _demo_command  # noqa: E402

raise SystemExit(_demo_command.main())
