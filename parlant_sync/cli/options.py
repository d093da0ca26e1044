"""What all commands share: the options that are taken before and after the command, and what they amount to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parlant_sync import Client
from parlant_sync.cli import output
from parlant_sync.cli.errors import usage
from parlant_sync.cli.signals import Signals

_F = TypeVar("_F", bound=Callable[..., Any])
# What a request has where nobody is in a hurry, in seconds; the default of Client.
_REQUEST = 30.0


class App:
    """The command line of this run, apart from its command's own options."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.server: str | None = None
        self.token_file: str | None = None
        self.output = "text"
        self.verbose = 0
        self._log: LogLines | None = None

    @property
    def json(self) -> bool:
        return self.output == "json"

    def take(self, name: str, value: Any) -> None:
        if name == "verbose":
            self.verbose += value
        else:
            setattr(self, name, value)

    def client(self, *, patience: float | None = None, **settings: Any) -> Client:
        """A client of the server that was asked for. Raises CommandError, ConfigurationError.

        No request takes longer than ``patience`` seconds, but each has one.
        """
        self.start_logging()
        if patience is not None:
            settings["request_timeout"] = min(max(patience, 1.0), _REQUEST)
        return Client(self.server, token=self.token(), **settings)

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
        if self._log is not None:
            self._log.stop()

    def info(self, text: str) -> None:
        """A line that only those want to see who asked for more with -v."""
        if self.verbose:
            output.note(text)

    def again(self, *words: str) -> str:
        """A command line to try next, at the same server."""
        import shlex

        given: list[str] = []
        for flag, variable, value in (
            ("-s", "PARLANT_SERVER", self.server),
            ("--token-file", "PARLANT_TOKEN_FILE", self.token_file),
        ):
            if value and value != os.environ.get(variable):
                given += [flag, value]
        return shlex.join(["parlant-sync", *given, *words])

    def token(self) -> Callable[[], str] | None:
        """Read again for every request, so that it can rotate; read once now, so that a mistake shows at once."""
        if self.token_file is None:
            return None  # the client looks at PARLANT_TOKEN
        path = Path(self.token_file)

        def read() -> str:
            return path.read_text("ascii").strip()

        try:
            token = read()
        except OSError as error:
            raise usage(f"--token-file {path}: {error.strerror}") from None
        except ValueError:
            token = "no ASCII"
        if not token:
            raise usage(f"--token-file {path} is empty")
        if any(char <= " " or char == "\x7f" for char in token):
            raise usage(f"--token-file {path} holds no token: a token is one word of plain ASCII text")
        return read


class Option(click.Option):
    """An option that the environment may give as well: ``--agent-id`` as ``PARLANT_AGENT_ID``."""

    def __init__(self, declarations: Any = None, **attributes: Any) -> None:
        from_environment = attributes.pop("from_environment", True)
        super().__init__(declarations, **attributes)
        if self.envvar is None and from_environment and self.name:
            self.envvar = f"PARLANT_{self.name.upper()}"

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        kind = {"FILE": "file", "DIR": "dir"}.get(str(self.metavar))
        return complete(kind, incomplete) if kind else super().shell_complete(ctx, incomplete)


def complete(kind: str, incomplete: str) -> list[CompletionItem]:
    """What tells the shell to complete a ``file`` or a ``dir`` itself."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type=kind)]


def option(*declarations: str, **attributes: Any) -> Callable[[_F], _F]:
    """``click.option`` with :class:`Option`."""
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


class Seconds(SecondsType):
    """A number of seconds, not negative; ``inf`` (waits for ever) becomes None."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        try:
            seconds = float(value)
        except ValueError:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        if not seconds >= 0:
            self.fail(f"{value!r} must be 0 or more seconds", param, ctx)
        return None if seconds == float("inf") else seconds


def _common(*, root: bool) -> list[click.Parameter]:
    def take(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        app = ctx.find_object(App)
        if app is not None and value is not None and param.name is not None:
            app.take(param.name, value)

    shared: dict[str, Any] = {"expose_value": False, "callback": take, "from_environment": root}
    return [
        Option(["-s", "--server"], metavar="URL", help="Address of the server.  [http://localhost:8800]", **shared),
        Option(["--token-file"], metavar="FILE", help="File that holds the token (else PARLANT_TOKEN).", **shared),
        Option(["-o", "--output"], type=click.Choice(["text", "json"]), help="Form of the answer.  [text]", **shared),
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
    """A command that takes the common options, too."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **attributes)
        self.params.extend(_common(root=False))


class Group(_Help, click.Group):
    """A group of commands, which take the common options before and after."""

    command_class = Command

    def __init__(self, *args: Any, root: bool = False, **attributes: Any) -> None:
        attributes.setdefault("context_settings", _CONTEXT)
        super().__init__(*args, **attributes)
        self.params.extend(_common(root=root))


pass_app = click.make_pass_decorator(App)
