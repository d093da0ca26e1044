"""Profiles: named groups of options in ``$XDG_CONFIG_HOME/parlant-sync/config.toml``.

::

    [profiles.staging]
    server = "https://staging.example.com"
    token_file = "~/.secrets/staging"
"""

from __future__ import annotations

import importlib
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from parlant_sync.cli.errors import usage

_TEXTS = ("server", "token_file", "output", "agent_id", "customer_id", "state_dir", "timeout")


def path() -> Path:
    """Where the file is. A relative XDG_CONFIG_HOME counts as none, as its specification says."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".config"
    return folder / "parlant-sync" / "config.toml"


def profile(name: str) -> dict[str, Any]:
    """The options of this profile. Raises CommandError, which names what is wrong in the file."""
    file = path()
    profiles = _profiles(file)
    if name not in profiles:
        near = get_close_matches(name, profiles, 1)
        known = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(profiles)) or 'none'}"
        raise usage(f"no profile {name!r} in {file}; {known}")
    options = profiles[name]
    if not isinstance(options, dict):
        raise usage(f"{file}: profiles.{name} must be a table, as in [profiles.{name}]")
    for key, value in options.items():
        where = f"{file}: {key} in profile {name!r}"
        if key == "token":
            raise usage(f"{where}: keep the token in a file of its own, and name it with token_file")
        if key not in _TEXTS:
            near = get_close_matches(key, _TEXTS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise usage(f"{where} is not an option; {hint}Known are {', '.join(_TEXTS)}")
        if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
            raise usage(f'{where} must be a text, as in {key} = "..."')
    found = {key: str(value) for key, value in options.items()}
    for key in ("token_file", "state_dir"):
        if key in found:
            found[key] = str(file.parent / os.path.expanduser(found[key]))
    return found


def names() -> list[str]:
    """The profiles there are; empty if the file cannot be read."""
    try:
        return sorted(_profiles(path()))
    except Exception:  # only for completion
        return []


def _profiles(file: Path) -> dict[str, Any]:
    try:
        tomllib: Any = importlib.import_module("tomllib")
    except ImportError:
        raise usage("profiles need Python 3.11 or newer; set PARLANT_SERVER and the like instead") from None
    try:
        with file.open("rb") as opened:
            content = tomllib.load(opened)
    except FileNotFoundError:
        raise usage(f"there is no {file}; write profiles there, as in [profiles.staging]") from None
    except OSError as error:
        raise usage(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise usage(f"{file} is not valid TOML: {error}") from None
    profiles = content.get("profiles", {})
    if not isinstance(profiles, dict):
        raise usage(f"{file}: profiles must be tables, as in [profiles.staging]")
    return profiles
