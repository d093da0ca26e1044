# mypy: disallow-subclassing-any=False
"""An ``NLPService`` for Parlant that needs no network: it follows rules instead of a model.

Parlant's engine runs as with any other service. It asks for guideline matches, a preamble, a draft or a stream of text.
It gets the smallest valid answer, with the agent's words in the place where the engine expects them.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import types
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from parlant.core.nlp.embedding import Embedder, EmbeddingResult
from parlant.core.nlp.generation import SchematicGenerationResult, SchematicGenerator
from parlant.core.nlp.generation_info import GenerationInfo, UsageInfo
from parlant.core.nlp.moderation import NoModeration
from parlant.core.nlp.service import NLPService
from parlant.core.nlp.tokenization import EstimatingTokenizer, ZeroEstimatingTokenizer

from .directives import Script, ScriptedFailure
from .replies import Conversation, Voice, read

try:
    from parlant.core.nlp.generation import StreamingTextGenerationResult, StreamingTextGenerator
except ImportError:  # before Parlant 3.2
    STREAMING = False
    StreamingTextGenerator = StreamingTextGenerationResult = object
else:
    STREAMING = True

try:
    from . import compass
except ImportError:  # before Parlant 4.0
    COMPASS = False
else:
    COMPASS = True

T = TypeVar("T")

_DIMENSIONS = 32
_EMPTY: Mapping[type, Any] = {str: "", bool: False, int: 0, float: 0.0}


class Gates:
    """Places where a turn waits until the test opens them. A gate is open if *directory* has a file of its name."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    async def passed(self, name: str | None) -> None:
        """Wait until gate *name* is open; None is no gate. Can be cancelled."""
        while name is not None and not (self._directory / name).exists():
            await asyncio.sleep(0.02)


@dataclass(frozen=True)
class Cast:
    """The agents' voices by display name, which is how a prompt names its agent."""

    voices: Mapping[str, Voice]
    gates: Gates

    def _read(self, prompt: Any) -> tuple[Conversation, Voice]:
        if not isinstance(prompt, Conversation):
            prompt = read(prompt, compass.conversation() if COMPASS else None)
        conversation: Conversation = prompt
        return conversation, self.voices.get(conversation.agent) or Voice()

    def asked(self, prompt: Any) -> Script:
        """The directives of the message that the turn answers."""
        state, voice = self._read(prompt)
        return voice.asked(state)

    async def match(self, prompt: Any) -> bool:
        """Whether the agent's guideline applies."""
        state, voice = self._read(prompt)
        script = voice.asked(state)
        await asyncio.sleep(script.seconds("slowmatch"))
        await self.gates.passed(script.directives.get("gatematch"))
        if script.fails("match"):
            raise ScriptedFailure("guideline matching")
        return voice.relevant(state)

    async def preamble(self, prompt: Any) -> str:
        state, voice = self._read(prompt)
        script = voice.asked(state)
        await self.gates.passed(script.directives.get("gatepreamble"))
        if script.fails("preamble"):
            raise ScriptedFailure("the preamble")
        return voice.preamble()

    async def answer(self, prompt: Any) -> str:
        state, voice = self._read(prompt)
        script = voice.asked(state)
        await asyncio.sleep(script.seconds("slow"))
        await self.gates.passed(script.directives.get("gate"))
        if script.fails("answer"):
            raise ScriptedFailure("the answer")
        return voice.answer(state)

    async def stream(self, prompt: Any) -> AsyncIterator[str | None]:
        """Give the answer word by word, and None at the end, as Parlant expects."""
        state, voice = self._read(prompt)
        script = voice.asked(state)
        words = re.findall(r"\S+\s*", await self.answer(prompt))
        middle = (len(words) + 1) // 2
        for number, word in enumerate(words):
            if number:
                await asyncio.sleep(script.seconds("pace", voice.pace))
            if number == middle:
                await self.gates.passed(script.directives.get("gatemid"))
                if "break" in script:
                    raise ScriptedFailure("the stream")
            yield word
        if words:
            yield None


class _Model:
    """What Parlant asks of every model: a name, a size, and how to count tokens."""

    @property
    def id(self) -> str:
        return "parlant-sync-demo"

    @property
    def max_tokens(self) -> int:
        return 1_000_000

    @property
    def tokenizer(self) -> Any:
        return ZeroEstimatingTokenizer()


class Generator(_Model, SchematicGenerator[T]):
    """Fills in one of Parlant's schemas; made as ``Generator[schema](cast)``."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    async def generate(self, prompt: Any, hints: Mapping[str, Any] = {}) -> Any:
        started = time.monotonic()
        content = await self._fill(self.schema.__name__, prompt)
        return SchematicGenerationResult(content=content, info=_info(self.schema.__name__, time.monotonic() - started))

    async def _fill(self, name: str, prompt: Any) -> Any:
        if name == "CannedResponseDraftSchema":
            return fill(self.schema, response_body=await self._cast.answer(prompt))
        if name == "MessageSchema":  # composition mode "fluid", the default of POST /agents
            answer = await self._cast.answer(prompt)
            said = fill(item(self.schema, "revisions"), content=answer, followed_all_instructions=True)
            return fill(self.schema, produced_reply=bool(answer), revisions=[said])
        if "PreambleSchema" in name:
            return fill(self.schema, preamble=await self._cast.preamble(prompt))
        if name.endswith("GuidelineMatchesSchema"):
            check = item(self.schema, "checks")
            applies = await self._cast.match(prompt)
            # Each agent has one guideline, and Parlant numbers those of a prompt from 1.
            return fill(self.schema, checks=[fill(check, guideline_id="1", rule_id="1", applies=applies)])
        if name == "RuleRankSchema":  # of Compass: 5 of 5 points
            return fill(self.schema, s=5 if await self._cast.match(prompt) else 1)
        if name == "SingleToolBatchSchema" and not _staged(prompt):  # the only tool of a matched guideline, once
            call = fill(item(self.schema, "tool_calls_for_candidate_tool"), is_applicable=True)
            return fill(self.schema, tool_calls_for_candidate_tool=[call])
        return fill(self.schema)


class Streamer(_Model, StreamingTextGenerator):
    """Streams answers, from Parlant 3.2 on."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    def generate(self, prompt: Any, hints: Mapping[str, Any] = {}) -> Any:
        started = time.monotonic()
        return StreamingTextGenerationResult(
            stream=self._cast.stream(prompt),
            info_getter=lambda: _info("streaming", time.monotonic() - started),
        )


class WordCounter(EstimatingTokenizer):
    """Counts words; the search for canned responses divides by the number of tokens."""

    async def estimate_token_count(self, prompt: str) -> int:
        return max(1, len(prompt.split()))


class HashingEmbedder(_Model, Embedder):
    """Makes vectors of hashed words: enough for Parlant's own searches, which find little here anyway."""

    async def embed(self, texts: list[str], hints: Mapping[str, Any] = {}) -> Any:
        return EmbeddingResult(vectors=[_embed(text) for text in texts])

    @property
    def tokenizer(self) -> Any:
        return WordCounter()

    @property
    def dimensions(self) -> int:
        return _DIMENSIONS


class OfflineNLPService(NLPService):
    """The ``nlp_service`` of the Parlant server."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    @property
    def supports_streaming(self) -> bool:
        return STREAMING

    async def get_schematic_generator(self, t: Any, hints: Any = None) -> Any:
        generic: Any = Generator
        return generic[t](self._cast)

    async def get_streaming_text_generator(self, hints: Any = None) -> Any:
        return Streamer(self._cast)

    @property
    def supports_react(self) -> bool:
        return COMPASS

    async def get_react_generator(self) -> Any:
        return compass.Reactor(self._cast)

    async def get_embedder(self, hints: Any = None) -> Any:
        return HashingEmbedder()

    async def get_moderation_service(self) -> Any:
        return NoModeration()


def _info(schema: str, duration: float) -> Any:
    return GenerationInfo(
        schema_name=schema,
        model="parlant-sync-demo",
        duration=duration,
        usage=UsageInfo(input_tokens=0, output_tokens=0),
    )


def _embed(text: str) -> list[float]:
    vector = [0.0] * _DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        vector[zlib.crc32(word.encode()) % _DIMENSIONS] += 1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def _staged(prompt: Any) -> bool:
    """Whether the prompt of a tool call lists calls that were made already in this turn."""
    names = [str(getattr(name, "name", name)) for name in prompt.sections]
    return any("staged-tool-calls" in name and "empty" not in name for name in names)


def fill(schema: Any, **values: Any) -> Any:
    """An instance of the pydantic model *schema*: *values*, and the smallest valid value for the rest."""
    filled = {name: value for name, value in values.items() if name in schema.model_fields}
    for name, field in schema.model_fields.items():
        if name not in filled and field.is_required():
            filled[name] = _least(field.annotation)
    return schema.model_validate(filled)


def item(schema: Any, name: str) -> Any:
    """The model of the items of *schema*'s list *name*; None if there is no such list."""
    field = schema.model_fields.get(name)
    found = list(get_args(field.annotation)) if field is not None else []
    for argument in found:  # grows: the list may be an optional one
        if hasattr(argument, "model_fields"):
            return argument
        found += get_args(argument)
    return None


def _least(annotation: Any) -> Any:
    if annotation in _EMPTY:
        return _EMPTY[annotation]
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        choices = get_args(annotation)
        return None if type(None) in choices else _least(choices[0])
    if origin is Literal:
        return get_args(annotation)[0]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next(iter(annotation))
    if hasattr(annotation, "model_fields"):
        return fill(annotation)
    container = origin if isinstance(origin, type) else annotation
    if isinstance(container, type) and issubclass(container, Mapping):
        return {}
    if isinstance(container, type) and issubclass(container, Sequence):
        return []
    return None
