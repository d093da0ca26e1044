"""A notebook with ``%autoreload 2``: the package is reloaded between two cells, and the session goes on.

Arguments: a folder with a copy of the package, and the server's address.
"""

import os
import sys
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

folder, url = sys.argv[1:]
sys.path.insert(0, folder)
shell = InteractiveShell.instance()


def cell(text: str) -> None:
    result = shell.run_cell(text)
    result.raise_error()


cell("%load_ext autoreload")
cell("%autoreload 2")
cell(
    f"""
import parlant_sync
from parlant_sync import Client
client = Client({url!r})
session = client.create_session("quick")
assert session.send("one", timeout=20).text == "echo: one"
assert parlant_sync.__file__.startswith({folder!r})
"""
)
touched = [
    path for path in Path(folder).rglob("*.py") if path.relative_to(folder).parts[1] not in ("cli", "demo", "batch")
]
for path in touched:
    os.utime(path, (2_000_000_000, 2_000_000_000))
cell(
    """
assert session.send("two", timeout=20).text == "echo: two"
assert [event.message for event in session.iter_events(timeout=0) if event.kind == "message"][-1] == "echo: two"
try:
    client.session("no such session")
except parlant_sync.NotFoundError:  # by its name of now; a class imported before is that of before
    print("READY caught")
client.close()
"""
)
