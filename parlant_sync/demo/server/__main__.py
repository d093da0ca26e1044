"""Runs the demo server: ``PYTHON path/to/server --port 8800 --home FOLDER``, or as a module of the package.

Started by its path, the folder becomes a package of its own. So the interpreter needs neither
parlant_sync nor its dependencies, and no module here hides another one of the same name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_ALONE = "parlant_sync_demo_server"


def _package() -> str:
    if __package__:
        return __package__
    folder = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
    spec = spec_from_file_location(_ALONE, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    sys.modules[_ALONE] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[_ALONE])
    return _ALONE


if __name__ == "__main__":
    sys.exit(import_module(".run", _package()).main())
