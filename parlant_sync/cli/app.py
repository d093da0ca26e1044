"""What a run of the command has been given: server, token, profile, output; and the clients it makes of that."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parlant_sync import Client
from parlant_sync.cli import output
from parlant_sync.cli.errors import usage
from parlant_sync.cli.signals import Signals

if TYPE_CHECKING:
    from parlant_sync.cli.logs import LogLines

# The longest time for one request, in seconds; the default of Client.
_REQUEST = 30.0


class App:
    """The command line of this run, apart from its command's own options.

    An option comes from the command line, else from the environment, else from the profile.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.verbose = 0
        self.profile_name: str | None = None
        self.session_id: str | None = None  # of the session that the command works with, once that is known
        self._given: dict[str, str] = {}
        self._profile: dict[str, str] | None = None
        self._log: LogLines | None = None
        self._settings: dict[str, Any] = {}
        self._clients = contextlib.ExitStack()

    @property
    def server(self) -> str | None:
        """The address that was asked for; None leaves it to the client's default."""
        return self._given.get("server") or self.profile.get("server")

    @property
    def output(self) -> str:
        return self._given.get("output") or self.profile.get("output", "text")

    @property
    def json(self) -> bool:
        return self.output == "json"

    @property
    def profile(self) -> dict[str, str]:
        """The options of the profile, empty without one. Raises CommandError."""
        if self._profile is None:
            self._profile = _profile(self.profile_name) if self.profile_name else {}
        return self._profile

    def take(self, name: str, value: Any) -> None:
        """The value of a common option."""
        if name == "verbose":
            self.verbose += value
        elif name == "profile":
            self.profile_name = value
            self._profile = None
        else:
            self._given[name] = value

    def client(self, *, patience: float | None = None, **settings: Any) -> Client:
        """A client of the server that was asked for. Raises CommandError, ConfigurationError.

        No request takes longer than ``patience`` seconds (but at least one).
        """
        self.start_logging()
        wanted = self.profile.get("server")
        if wanted not in (None, self.server) and self.server == os.environ.get("PARLANT_SERVER"):
            output.note(f"PARLANT_SERVER overrides the profile {self.profile_name!r}: using {self.server}")
        if patience is not None:
            settings["request_timeout"] = min(max(patience, 1.0), _REQUEST)
        self._settings = settings
        return Client(self.server, token=self.token(), **settings)

    def guest_client(self, token: str) -> Client:
        """A client for a guest, with the token that the server gave; closed at the end of the run."""
        return self._clients.enter_context(Client(self.server, token=token, **self._settings))

    def start_logging(self) -> None:
        """Show the library's log from here on: warnings, and with -v more of it."""
        from parlant_sync.cli.logs import LogLines

        if self._log is None:
            self._log = LogLines(self.verbose)
            self._log.start()

    def typing(self) -> contextlib.AbstractContextManager[None]:
        """Hold the log back while the user types at a prompt."""
        return self._log.hold() if self._log is not None else contextlib.nullcontext()

    def stop(self) -> None:
        """At the end of the run."""
        self._clients.close()
        if self._log is not None:
            self._log.stop()

    def info(self, text: str) -> None:
        """Print a line that is shown with -v only."""
        if self.verbose:
            output.note(text)

    def again(self, *words: str) -> str:
        """A command line to try next, at the same server."""
        import shlex

        given: list[str] = []
        for flag, variable, value in (
            ("--profile", "PARLANT_PROFILE", self.profile_name),
            ("-s", "PARLANT_SERVER", self._given.get("server")),
            ("--token-file", "PARLANT_TOKEN_FILE", self._given.get("token_file")),
        ):
            if value and value != os.environ.get(variable):
                given += [flag, value]
        return shlex.join(["parlant-sync", *given, *words])

    def token(self) -> Callable[[], str] | None:
        """Read again for every request, so that it can rotate; read once now, so that a mistake shows at once."""
        name, what = self._token_file()
        if name is None:
            return None  # the client looks at PARLANT_TOKEN
        path = Path(name)

        def read() -> str:
            return path.read_text("ascii").strip()

        try:
            token = read()
        except OSError as error:
            raise usage(f"{what}: {error.strerror}") from None
        except ValueError:
            token = "no ASCII"
        if not token:
            raise usage(f"{what} is empty")
        if any(char <= " " or char == "\x7f" for char in token):
            raise usage(f"{what} does not hold a token: a token is one word of plain ASCII text")
        return read

    def token_source(self) -> str:
        """Where the token comes from, for messages; empty if there is no token."""
        return self._token_file()[1] or ("PARLANT_TOKEN" if os.environ.get("PARLANT_TOKEN") else "")

    def _token_file(self) -> tuple[str | None, str]:
        """The file, and what to call it. A profile's token goes to that profile's server only."""
        given = self._given.get("token_file")
        if given:
            return given, f"--token-file {given}"
        file = self.profile.get("token_file")
        other = self.profile.get("server") not in (None, self.server)
        if file is None or other or os.environ.get("PARLANT_TOKEN"):
            return None, ""
        return file, f"token_file {file} of profile {self.profile_name!r}"


def _profile(name: str) -> dict[str, str]:
    from parlant_sync.cli import config  # most runs have no profile

    return config.profile(name)
