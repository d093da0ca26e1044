"""What all commands share: the options that are taken before and after the command, and kinds of options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import usage

_F = TypeVar("_F", bound=Callable[..., Any])


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


def argument(name: str, *, values: str, **attributes: Any) -> Callable[[_F], _F]:
    """``click.argument`` that the shell completes as the option ``values``: ``session_id``, ``conversation``."""

    def offer(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from parlant_sync.cli import completion

        return completion.values(ctx, values, incomplete) or []

    return click.argument(name, shell_complete=offer, **attributes)


def option(*declarations: str, **attributes: Any) -> Callable[[_F], _F]:
    """``click.option`` with ``Option``."""
    return click.option(*declarations, cls=Option, **attributes)


if TYPE_CHECKING:
    SecondsType = click.ParamType[float | None]
    RateType = click.ParamType[float]
    from click.shell_completion import CompletionItem
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
