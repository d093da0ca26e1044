"""Many sessions, turns, readers and faults for a while: python3 scripts/soak.py --minutes 15 --seed 1

Keeps a ledger of what the server holds against what readers got, prints a line every ten seconds and a verdict.
"""

import _python

_python.require()  # before anything that an old Python could not even read

import _soak_command  # noqa: E402

raise SystemExit(_soak_command.main())
