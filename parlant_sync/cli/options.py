"""What all commands share: the options that are taken before and after the command, and what they amount to."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parlant_sync import Client
from parlant_sync.cli import output
from parlant_sync.cli.errors import usage
from parlant_sync.cli.signals import Signals

_F = TypeVar("_F", bound=Callable[..., Any])
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
        """The same for a guest, with the token that the server gave him; closed at the end of the run."""
        return self._clients.enter_context(Client(self.server, token=token, **self._settings))

    def start_logging(self) -> None:
        """Show the library's log from here on: warnings, and with -v more of it."""
        from parlant_sync.cli.logs import LogLines

        if self._log is None:
            self._log = LogLines(self.verbose)
            self._log.start()

    def typing(self) -> contextlib.AbstractContextManager[None]:
        """While somebody types at a prompt: the log waits until that is over."""
        return self._log.hold() if self._log is not None else contextlib.nullcontext()

    def stop(self) -> None:
        """At the end of the run."""
        self._clients.close()
        if self._log is not None:
            self._log.stop()

    def info(self, text: str) -> None:
        """A line for those who asked for more with -v."""
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
        """Where the token comes from, for messages; empty if there is none."""
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


class Option(click.Option):
    """An option that the environment and the profile may give as well: ``--agent-id`` as ``PARLANT_AGENT_ID``."""

    def __init__(self, declarations: Any = None, **attributes: Any) -> None:
        self._elsewhere = attributes.pop("from_environment", True)
        super().__init__(declarations, **attributes)
        if self.envvar is None and self._elsewhere and self.name:
            self.envvar = f"PARLANT_{self.name.upper()}"

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, click.core.ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is click.core.ParameterSource.DEFAULT and self._elsewhere and self.name not in _COMMON:
            app = ctx.find_object(App)
            if app is not None and self.name in app.profile:
                return app.profile[self.name], click.core.ParameterSource.DEFAULT_MAP
        return value, source

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        kind = {"FILE": "file", "DIR": "dir"}.get(str(self.metavar))
        if kind:
            return complete(kind, incomplete)
        from parlant_sync.cli.completion import values

        found = values(ctx, str(self.name), incomplete)
        return super().shell_complete(ctx, incomplete) if found is None else found


def complete(kind: str, incomplete: str) -> list[CompletionItem]:
    """Asks the shell to complete a ``file`` or a ``dir`` itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


def option(*declarations: str, **attributes: Any) -> Callable[[_F], _F]:
    """``click.option`` with ``Option``."""
    return click.option(*declarations, cls=Option, **attributes)


if TYPE_CHECKING:
    SecondsType = click.ParamType[float | None]
    RateType = click.ParamType[float]
    from click.shell_completion import CompletionItem

    from parlant_sync.cli.logs import LogLines
else:
    SecondsType = RateType = click.ParamType  # generic from click 8.4 on only


def typed(name: str) -> bool:
    """Whether this option of the running command stands on its command line (not only in the environment)."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """``90``, ``90s``, ``5m``, ``1h30m`` in seconds; ``inf`` is infinite. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        pass
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


class Seconds(SecondsType):
    """A duration: seconds, or ``90s``, ``5m``, ``1h``. Not negative; ``inf`` (waits for ever) becomes None."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        try:
            found = seconds(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a duration: give seconds, or 90s, 5m, 1h", param, ctx)
        if not found >= 0:
            self.fail(f"{value!r} must be 0 or more seconds", param, ctx)
        return None if found == float("inf") else found


_FORMATS = ("text", "json", "markdown", "html")
_HOW = "text or json.  [text]"
_COMMON = ("server", "token_file", "output", "verbose", "profile")


def _common(*, root: bool) -> list[click.Parameter]:
    def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        app = ctx.find_object(App)
        if app is not None and value is not None and param.name is not None:
            app.take(param.name, value)

    shared: dict[str, Any] = {"expose_value": False, "callback": take, "from_environment": root}
    return [
        Option(["-s", "--server"], metavar="URL", help="Address of the server.  [http://localhost:8800]", **shared),
        Option(["--token-file"], metavar="FILE", help="File that holds the token (else PARLANT_TOKEN).", **shared),
        Option(["--profile"], metavar="NAME", is_eager=True, help="Options of this name in config.toml.", **shared),
        Option(["-o", "--output"], type=click.Choice(_FORMATS), metavar="FORMAT", help=_HOW, **shared),
        Option(["-v", "--verbose"], count=True, help="Say more; -vv with details of errors.", **shared),
    ]


def _show_help(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        output.write(ctx.get_help() + "\n")
        ctx.exit()


class _Help:
    """Help goes the way of all output: click's own way takes a closed pipe or a full disk for a bug."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        found: click.Option | None = super().get_help_option(ctx)  # type: ignore[misc]
        if found is not None:
            found.callback = _show_help
        return found


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}


class Command(_Help, click.Command):
    """A command that takes the common options, too. ``formats``: what it takes as ``--output``."""

    def __init__(self, *args: Any, formats: Sequence[str] = ("text", "json"), **attributes: Any) -> None:
        attributes.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **attributes)
        self._formats = formats
        self.params.extend(_common(root=False))
        for param in self.params:
            if param.name == "output" and isinstance(param, Option):
                param.help = f"{', '.join(formats[:-1])} or {formats[-1]}.  [text]"

    def invoke(self, ctx: click.Context) -> Any:
        app = ctx.find_object(App)
        if app is not None and app.output not in self._formats:
            raise usage(f"{ctx.info_name} has no output {app.output!r}; it has {', '.join(self._formats)}")
        return super().invoke(ctx)


class Group(_Help, click.Group):
    """A group of commands, which take the common options before and after."""

    command_class = Command

    def __init__(self, *args: Any, root: bool = False, **attributes: Any) -> None:
        attributes.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **attributes)
        self.params.extend(_common(root=root))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches  # only for a mistake

            near = get_close_matches(args[0], known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


pass_app = click.make_pass_decorator(App)
