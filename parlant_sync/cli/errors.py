"""What went wrong: one line that says what to do next, an exit code, and an object for ``-o json``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from parlant_sync import errors
from parlant_sync.cli.output import OutputClosed, OutputFailed
from parlant_sync.cli.signals import Terminated

ANSWERED, UNEXPECTED, USAGE, UNREACHED, TIMED_OUT, AGENT, REFUSED, UNCERTAIN, LOCKED, ROWS = range(10)
INTERRUPTED = 130
_PROGRAM = "parlant-sync"


class CommandError(Exception):
    """A failure that a command describes itself. What the library raised is its cause."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def usage(message: str) -> CommandError:
    return CommandError(USAGE, message)


def exit_code(error: BaseException) -> int:
    """The table in docs/command-line.md."""
    if isinstance(error, (CommandError, Terminated)):
        return error.exit_code
    for kinds, code in _CODES:
        if isinstance(error, kinds):
            return code
    if isinstance(error, errors.ApiError):
        if error.status in (401, 403, 404) and not error.from_parlant:
            return UNREACHED  # the page of a proxy, perhaps during a restart of the server behind it
        # Redirects and unexpected statuses. 408 and 425 are the two 4xx that pass by themselves.
        return UNREACHED if error.status in (408, 425) or is_page(error) else REFUSED
    return UNEXPECTED


_CODES: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], int], ...] = (
    (KeyboardInterrupt, INTERRUPTED),
    (OutputClosed, ANSWERED),
    ((click.ClickException, errors.ConfigurationError), USAGE),
    # A body that is no Parlant server's: what was to be reached was not (a proxy, a portal, another program).
    ((errors.TransportError, errors.RateLimitedError, errors.ServerError, errors.ProtocolError), UNREACHED),
    (errors.TurnTimeout, TIMED_OUT),
    (errors.AgentError, AGENT),
    (errors.UnsupportedByServer, REFUSED),
    (errors.DeliveryUncertain, UNCERTAIN),
)


def _again(*words: str) -> str:
    return " ".join((_PROGRAM, *words))


def line(error: BaseException, again: Callable[..., str] = _again, token_source: str = "") -> str:
    """The one line; empty if there is nothing to report.

    ``again`` makes a command line to try next, ``token_source`` says where the token of this run came from.
    """
    if isinstance(error, OutputClosed):
        return ""
    if isinstance(error, KeyboardInterrupt):
        return f"{_PROGRAM}: interrupted"
    if isinstance(error, Terminated):
        return f"{_PROGRAM}: ended by {error.name}"
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx is not None else _PROGRAM
        return f"{path}: {error.format_message()} (see {path} --help)"
    return f"{_PROGRAM}: {_what(error, again, token_source)}"


def to_json(error: BaseException, line: str, session_id: str | None) -> dict[str, Any]:
    """The object of a failure with ``-o json``: the error, the session's id, and the text that came so far."""
    causes = [error]
    while causes[-1].__cause__ is not None and len(causes) < 10:
        causes.append(causes[-1].__cause__)
    reported = next((each for each in causes if isinstance(each, errors.ParlantSyncError)), error)
    partial = getattr(reported, "partial", None)
    return {
        "session_id": session_id,
        "error": line.partition(": ")[2],
        "error_type": type(reported).__name__,
        "exit_code": exit_code(error),
        "text": partial.text if partial is not None else "",
        "key": getattr(reported, "key", None),
    }


def is_gone(error: errors.NotFoundError, wanted: str) -> bool:
    """Whether Parlant itself reports that ``wanted`` does not exist. A proxy's 404 never does."""
    return error.from_parlant and f"'{wanted}'" in error.detail and "not found" in error.detail


def is_page(error: errors.ApiError) -> bool:
    """Whether a proxy answered in place of Parlant, as during maintenance: that may be over in a moment.

    Three of its answers are final: 401 (it asks for a token), 301 and 308 (the server has moved for good).
    """
    return not error.from_parlant and error.status not in (301, 308, 401)


# Arguments of the library that are options of the same name.
_SAME = ("agent_id", "input_format", "encoding", "delimiter", "message_column")
# What the library calls it: what the command calls it.
_WORDS = {
    "base_url": "--server",
    "use token= or auth= instead": "use --token-file instead",
    "send(once=True)": "--key",
    "update(metadata=)": "--metadata",
    "update(labels=)": "--label",
    "list_sessions(labels=)": "--label",
    **{f"{name}=": f"--{name.replace('_', '-')}" for name in _SAME},
}


def _what(error: BaseException, again: Callable[..., str], token_source: str) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, (errors.ConfigurationError, errors.UnsupportedByServer)):
        return _in_words_of_the_command(str(error))
    if isinstance(error, errors.TransportError):
        said = str(error).partition("; check that a Parlant server answers")[0]
        return f"{said}; check the address: -s/--server, PARLANT_SERVER or the profile"
    if isinstance(error, errors.ApiError):
        return _refused(error, again, token_source)
    if isinstance(error, errors.TurnTimeout):
        return timed_out(error)
    if isinstance(error, errors.DeliveryUncertain):
        return uncertain(error, again, "send", "--session-id", error.session_id)
    if isinstance(error, OutputFailed):
        return f"the output could not be written: {error}; make room, or write elsewhere, and run it again"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; check the path, its permissions and the space left"
    if isinstance(error, (CommandError, errors.ParlantSyncError)):
        return str(error)
    return f"unexpected {type(error).__name__}: {error}; run it again with -vv for the details, and report them"


def timed_out(error: errors.TurnTimeout) -> str:
    """What happened, and an option in place of the library's advice."""
    return f"{str(error).rpartition('; ')[0]}; a longer --timeout may help"


def uncertain(error: errors.DeliveryUncertain, again: Callable[..., str], *command: str) -> str:
    """``command``: the one that posts such a message, without its key."""
    at_most_once = again(*command, "--key", error.key, "MESSAGE")
    return (
        "the message may have been delivered or not. Once the server is up again, this posts it only if it is not "
        f"there: {at_most_once} (to look first: {again('sessions', 'show', error.session_id)})"
    )


def _in_words_of_the_command(text: str) -> str:
    for api, command in _WORDS.items():
        text = text.replace(api, command)
    return text


def _refused(error: errors.ApiError, again: Callable[..., str], token_source: str) -> str:
    server = str(error).partition(f"{error.path}: {error.status}")[0]  # such a text begins with GET http://host:port
    said = f"{server or error.method + ' '}{error.path}: {error.status} {error.detail}".strip()
    if isinstance(error, errors.AuthenticationError):
        if token_source:
            return f"{said}; the token of this run came from {token_source}: check it there"
        return f"{said}; this server needs a token: give one with --token-file or PARLANT_TOKEN"
    if is_page(error) and not isinstance(error, (errors.RateLimitedError, errors.ServerError)):
        redirect = ", and redirects are refused" if 300 <= error.status < 400 else ""
        return f"{said}; a proxy answered, not Parlant{redirect}: try again later, or {again('doctor')}"
    if isinstance(error, errors.PermissionDeniedError):
        return f"{said}; this server does not allow that to this token"
    if isinstance(error, errors.NotFoundError):
        return f"{said}; check the id and the address (parlant-sync doctor looks at both)"
    if isinstance(error, errors.RateLimitedError):
        return f"{said}; too many requests: wait a minute and run it again"
    if isinstance(error, errors.ServerError):
        return f"{said}; the server or a proxy before it failed: try again, and look into its log"
    if 300 <= error.status < 400:
        return f"{said}; redirects are refused: give the final address with -s/--server"
    return f"{said}; the server will refuse this again: change the request first"
