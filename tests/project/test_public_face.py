"""The names, signatures, exceptions and exit codes that users' code relies on, written down once more.

A test that fails here has found no bug: it asks whether the public face is really meant to change. If so, that is a
decision, to be told in CHANGELOG.md.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import signal
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click
import pytest

import parlant_sync
from parlant_sync import errors
from parlant_sync.cli import errors as cli_errors
from parlant_sync.cli.signals import Terminated

CLASSES = """
    Client Session Turn EventReader
    Event Reply Update Agent SessionInfo SessionHealth ServerInfo ClientStats
    ParlantSyncError ConfigurationError TransportError ApiError AuthenticationError PermissionDeniedError NotFoundError
    InvalidRequestError RateLimitedError ServerError ProtocolError TurnTimeout AgentError AgentUnavailable
    UnsupportedByServer DeliveryUncertain SessionClosed ConcurrencyError ForkedProcessError
"""

# As a caller sees it: `=...` is a default that has no value to be written down. A line that is indented goes on.
SIGNATURES = """
    Client(base_url=None, *, token=None, headers=None, auth=None, verify=True, cert=None, proxies=None,
        poll_wait=60, connect_timeout=5, request_timeout=30, turn_timeout=300, close_timeout=5, idle_timeout=900,
        backlog_limit=10000, session_factory=None)
    Client.create_session(agent_id, *, customer_id=None, title=None, metadata=None, labels=None,
        allow_greeting=False) -> Session
    Client.session(session_id, *, since=None) -> Session
    Client.history(session_id, since=0, *, kinds=None, sources=None) -> list[Event]
    Client.agents() -> list[Agent]
    Client.agent(agent_id) -> Agent
    Client.list_sessions(*, agent_id=None, customer_id=None, labels=None) -> Iterator[SessionInfo]
    Client.delete_session(session_id)
    Client.server_info() -> ServerInfo
    Client.stats() -> ClientStats
    Client.close(timeout=None)
    Session.send(message, *, timeout=..., key=None, once=False, interrupt=False, metadata=None, moderation=None,
        participant=None) -> Reply
    Session.stream(message, *, timeout=..., key=None, once=False, interrupt=False, metadata=None, moderation=None,
        participant=None) -> Turn
    Session.post(message, *, key=None, metadata=None, moderation=None, participant=None, source='customer') -> Event
    Session.cancel()
    Session.reply_to(event, *, timeout=...) -> Reply
    Session.find(key) -> Event | None
    Session.post_event(kind, data, *, source='customer_ui', metadata=None) -> Event
    Session.trigger(guidelines=None, *, timeout=...) -> Reply
    Session.iter_events(*, timeout=None, since=None, kinds=None, sources=None, partial=False) -> EventReader
    Session.history(since=0, *, kinds=None, sources=None) -> list[Event]
    Session.update(*, title=None, mode=None, metadata=None, labels=None, customer_id=None)
    Session.delete_events(since)
    Session.refresh()
    Session.delete()
    Session.close(timeout=None)
    EventReader.close()
    Session.next_turn(*, timeout=...) -> Reply
    Turn.reply() -> Reply
    Turn.cancel()
    Turn.updates(heartbeat=None) -> Iterator[Update]
    Client.guest_token -> str | None
    Client.sessions -> Mapping[str, Session]
    Session.health -> SessionHealth
    Turn.text -> Iterator[str]
"""
PROPERTIES = {
    "Client": "sessions guest_token",
    "Session": "id agent_id customer_id title mode metadata labels created closed cursor agent_status health",
    "Turn": "text",
    "EventReader": "cursor",
    "Event": "id kind source trace_id created data metadata "
    "message status stage participant is_preamble is_partial tool_calls flagged moderation_tags",
}
# Attributes that are no properties, and names that no page has: they, too, go only by a decision.
MORE = {
    "Client": "base_url",
    "Session": "",
    "Turn": "close request restarts trace_id",
    "EventReader": "",
    "Event": "offset raw error_detail to_dict",
}
FIELDS = {
    "Reply": "text outcome messages preambles tool_calls matched_guidelines matched_journeys matched_journey_states "
    "events request trace_id duration",
    "ServerInfo": "version healthy latency",
    "Update": "kind text event",
    "ClientStats": "sessions polls idle_polls events bytes reconnects failures backlog limited_for",
    "SessionHealth": "state last_poll consecutive_failures last_error next_offset reconnects backlog",
    "Agent": "id name description raw",
    "SessionInfo": "id agent_id customer_id title mode metadata labels created raw",
}
TREE = """
ParlantSyncError(Exception)
    ConfigurationError(ValueError)
    TransportError
    ApiError: status method path detail
        AuthenticationError
        PermissionDeniedError
        NotFoundError
        InvalidRequestError
        RateLimitedError: retry_after
        ServerError
    ProtocolError
    TurnTimeout(TimeoutError): partial event
    AgentError: detail summary partial
        AgentUnavailable: retry_after
    UnsupportedByServer
    DeliveryUncertain: key session_id
    SessionClosed
    ConcurrencyError
    ForkedProcessError
"""


STATUSES = {
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    **dict.fromkeys((400, 409, 413, 422), "InvalidRequestError"),
    429: "RateLimitedError",
    **dict.fromkeys((500, 501, 502, 503, 504, 599), "ServerError"),
    **dict.fromkeys((301, 302, 307, 308, 402, 405, 410, 418), "ApiError"),
}


def signatures() -> dict[str, str]:
    lines = re.split(r"\n(?=\S)", textwrap.dedent(SIGNATURES).strip())
    found = [re.fullmatch(r"([\w.]+)(.*)", " ".join(line.split())) for line in lines]
    return {match[1]: match[2] for match in found if match}


def member(name: str) -> Any:
    owner, _, attribute = name.partition(".")
    found = getattr(parlant_sync, owner)
    return inspect.getattr_static(found, attribute) if attribute else found


def signature(name: str, *, with_result: bool) -> str:
    """Names, kinds and defaults, without the annotations of arguments, and without self."""
    found = member(name)
    if isinstance(found, property):
        return f" -> {inspect.signature(found.fget).return_annotation}"  # type: ignore[arg-type]
    parameters = []
    for parameter in inspect.signature(found).parameters.values():
        if parameter.name == "self":
            continue
        default: Any = parameter.default
        plain = default is parameter.empty or default is None or isinstance(default, (bool, int, float, str))
        parameters.append(parameter.replace(annotation=parameter.empty, default=default if plain else ...))
    result = f" -> {inspect.signature(found).return_annotation}" if with_result else ""
    return str(inspect.Signature(parameters)).replace("Ellipsis", "...") + result


def public(owner: type) -> set[str]:
    found = {name for name in dir(owner) if not name.startswith("_")}
    made = inspect.getsource(owner.__init__) if "__init__" in vars(owner) else ""
    return found | set(re.findall(r"self\.([a-z]\w*)(?::[^=]+)? = ", made))


def test_exports() -> None:
    assert sorted(parlant_sync.__all__) == sorted([*CLASSES.split(), "__version__", "as_sse"])
    for name in CLASSES.split():
        assert inspect.isclass(getattr(parlant_sync, name))
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", parlant_sync.__version__)


@pytest.mark.parametrize(("name", "expected"), signatures().items())
def test_signatures(name: str, expected: str) -> None:
    assert signature(name, with_result="->" in expected) == expected


@pytest.mark.parametrize("owner", PROPERTIES)
def test_nothing_more_and_nothing_less(owner: str) -> None:
    methods = {name.partition(".")[2] for name in signatures() if name.startswith(f"{owner}.")}
    promised = {*methods, *PROPERTIES[owner].split()}
    assert public(getattr(parlant_sync, owner)) == promised | set(MORE[owner].split())
    for name in PROPERTIES[owner].split():
        assert isinstance(member(f"{owner}.{name}"), property), name


@pytest.mark.parametrize("name", FIELDS)
def test_values_are_frozen_and_have_these_fields(name: str) -> None:
    kind = getattr(parlant_sync, name)
    assert " ".join(field.name for field in dataclasses.fields(kind)) == FIELDS[name]
    assert kind.__dataclass_params__.frozen


# -- errors


def tree() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Name, parent, further bases and attributes of each line."""
    path: list[str] = []
    for line in TREE.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        name, also, attributes = re.fullmatch(r"\s*(\w+)(?:\((\w+)\))?(?:: (.*))?", line).groups()  # type: ignore[union-attr]
        path[depth:] = [name]
        yield name, path[depth - 1] if depth else "", [also] if also else [], (attributes or "").split()


@pytest.mark.parametrize(("name", "parent", "also", "attributes"), list(tree()), ids=str)
def test_the_tree_of_errors(name: str, parent: str, also: list[str], attributes: list[str]) -> None:
    kind = getattr(parlant_sync, name)
    assert [base.__name__ for base in kind.__bases__] == [*([parent] if parent else []), *also]
    assert kind is getattr(errors, name)
    own = vars(kind).get("__init__")
    parameters = set(inspect.signature(own).parameters) if own else set()
    assert set(attributes) <= parameters


def test_the_tree_is_whole() -> None:
    kinds = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert kinds == {name for name, *_ in tree()}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(
    status: int, parlant_server: parlant_sync.testing.FakeServer, parlant_client: parlant_sync.Client
) -> None:
    parlant_server.agent("support")
    parlant_server.fail_next("POST /sessions", status, "{}", times=3)
    with pytest.raises(parlant_sync.ApiError) as failed:
        parlant_client.create_session("support")
    assert type(failed.value).__name__ == STATUSES[status]
    assert (failed.value.status, failed.value.method, failed.value.path) == (status, "POST", "/sessions")


# -- the command line

COMMANDS = "send post reply trigger chat tail agents sessions conversations batch doctor demo"
SUBCOMMANDS = {"sessions": "list show create update delete", "conversations": "list show forget"}
OPTIONS = {
    "": "--server -s --token-file --profile --output -o --verbose -v --version --help",
    "send": "--agent-id --session-id --customer-id --title --timeout --stream --show-preamble --conversation --stdin "
    "--fresh --key --metadata --label --empty-fails --wait-server",
    "post": "--session-id --conversation --as --name --key --metadata --label",
    "reply": "--session-id --conversation --key --timeout",
    "trigger": "--session-id --conversation --timeout",
    "tail": "-n --since --kinds --timeout --cursor-file --exec --forward-to --all-sessions",
    "batch": "--results --agent-id --concurrency --rate --retry-failed --dry-run",
}
REPLY = parlant_sync.Reply("", "empty")
EXIT_CODES: Mapping[int, list[BaseException]] = {
    1: [RuntimeError("?")],
    2: [errors.ConfigurationError("x"), click.UsageError("x"), click.BadParameter("x")],
    3: [
        errors.TransportError("x"),
        errors.RateLimitedError("x"),
        *(errors.ServerError("x", status=status) for status in (500, 502, 503, 504)),
    ],
    4: [errors.TurnTimeout("x", partial=REPLY)],
    5: [errors.AgentError("x", partial=REPLY)],
    6: [
        errors.AuthenticationError("x", status=401),
        errors.PermissionDeniedError("x", status=403),
        errors.NotFoundError("x", status=404),
        *(errors.InvalidRequestError("x", status=status) for status in (400, 409, 413, 422)),
    ],
    7: [errors.DeliveryUncertain("x", key="k", session_id="s")],
    130: [KeyboardInterrupt(), Terminated(signal.SIGINT)],
    143: [Terminated(signal.SIGTERM)],
}


def command(*names: str) -> click.Command:
    from parlant_sync.cli.main import root

    found: click.Command = root
    for name in names:
        assert isinstance(found, click.Group)
        context = click.Context(found)
        found = found.get_command(context, name) or pytest.fail(f"no command {' '.join(names)}")
    return found


def test_commands() -> None:
    root = command()
    assert isinstance(root, click.Group)
    assert root.list_commands(click.Context(root)) == COMMANDS.split()
    for group, names in SUBCOMMANDS.items():
        found = command(group)
        assert isinstance(found, click.Group)
        assert set(found.list_commands(click.Context(found))) == set(names.split())


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    found = command(name) if name else command()
    options = {option for parameter in found.get_params(click.Context(found)) for option in parameter.opts}
    assert set(OPTIONS[name].split()) <= options
    # Taken before and after the command.
    assert {"--server", "--token-file", "--profile", "--output", "--verbose"} <= options


@pytest.mark.parametrize("name", ["", *COMMANDS.split(), "sessions list", "sessions create"])
def test_every_option_also_from_the_environment(name: str) -> None:
    names = name.split()
    own = [p for p in command(*names).params if isinstance(p, click.Option) and p.name not in ("help", "version")]
    # The common ones are read once, before the command.
    common = {p.name for p in command().params} if names else set()
    for option in own:
        if option.name not in common:
            names_there = [option.envvar] if isinstance(option.envvar, str) else option.envvar or []
            assert f"PARLANT_{str(option.name).upper()}" in names_there, option.opts


@pytest.mark.parametrize(("code", "error"), [(code, error) for code, all_ in EXIT_CODES.items() for error in all_])
def test_exit_codes(code: int, error: BaseException) -> None:
    assert cli_errors.exit_code(error) == code


def test_exit_codes_of_other_origin() -> None:
    assert (cli_errors.ANSWERED, cli_errors.LOCKED, cli_errors.ROWS) == (0, 8, 9)
