"""All tests in one command: python3 scripts/test.py [--unit] [--full] [--servers ...] [--pythons ...] [pytest args].

Makes the project's .venv if there is none. Runs ruff, mypy --strict, the tests and the blocks of the docs. Ends with
one line that counts all tests. The exit code is 0 only if everything that was run passed.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an old Python gets one clear line
    sys.exit("parlant_sync needs Python 3.10 or newer. Try: python3.12 " + sys.argv[0])

from dev import testing

sys.exit(testing.main())
