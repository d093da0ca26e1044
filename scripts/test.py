"""All tests in one command: python3 scripts/test.py [--unit] [--full] [--servers ...] [--pythons ...] [pytest args].

Makes the project's .venv if there is none. Ends with one line that counts all tests; its exit code is 0 only if
everything that was run passed.
"""

import _python

_python.require()  # before anything that an old Python could not even read

import _test_command  # noqa: E402

raise SystemExit(_test_command.main())
