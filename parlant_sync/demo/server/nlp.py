# mypy: disallow-subclassing-any=False
"""An ``NLPService`` for Parlant that needs no network: it follows rules instead of a model.

Parlant's engine runs as with any other service. It asks for guideline matches, a preamble, a
draft or a stream of text, and gets the least that is valid, with the agent's words in the place
where the engine expects them.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from parlant.core.nlp.embedding import Embedder, EmbeddingResult
from parlant.core.nlp.generation import SchematicGenerationResult, SchematicGenerator
from parlant.core.nlp.generation_info import GenerationInfo, UsageInfo
from parlant.core.nlp.moderation import NoModeration
from parlant.core.nlp.service import NLPService
from parlant.core.nlp.tokenization import ZeroEstimatingTokenizer

from . import conversation, minimal
from .gates import Gates
from .replies import Voice

try:
    from parlant.core.nlp.generation import StreamingTextGenerationResult, StreamingTextGenerator
except ImportError:  # before Parlant 3.2
    STREAMING = False
    StreamingTextGenerator = StreamingTextGenerationResult = object
else:
    STREAMING = True

T = TypeVar("T")

_DIMENSIONS = 32


class ScriptedFailure(RuntimeError):
    """A test asked for this."""


@dataclass(frozen=True)
class Cast:
    """The agents' voices by display name, which is how a prompt names its agent."""

    voices: Mapping[str, Voice]
    gates: Gates

    def read(self, prompt: Any) -> tuple[conversation.Conversation, Voice]:
        read = conversation.read(prompt)
        return read, self.voices.get(read.agent) or Voice()

    async def match(self, prompt: Any) -> bool:
        """Guideline matching: does the agent's guideline apply?"""
        state, voice = self.read(prompt)
        script = voice.asked(state)
        await asyncio.sleep(script.seconds("slowmatch"))
        await self.gates.passed(script.directives.get("gatematch"))
        if script.fails("match"):
            raise ScriptedFailure("boom: guideline matching was told to fail")
        return voice.relevant(state)

    async def preamble(self, prompt: Any) -> str:
        state, voice = self.read(prompt)
        script = voice.asked(state)
        await self.gates.passed(script.directives.get("gatepreamble"))
        if script.fails("preamble"):
            raise ScriptedFailure("boom: the preamble was told to fail")
        return voice.preamble()

    async def answer(self, prompt: Any) -> str:
        state, voice = self.read(prompt)
        script = voice.asked(state)
        await asyncio.sleep(script.seconds("slow"))
        await self.gates.passed(script.directives.get("gate"))
        if script.fails("answer"):
            raise ScriptedFailure("boom: the answer was told to fail")
        return voice.answer(state)

    async def stream(self, prompt: Any) -> AsyncIterator[str | None]:
        """The answer word by word; ends with None, as Parlant wants it."""
        state, voice = self.read(prompt)
        script = voice.asked(state)
        words = re.findall(r"\S+\s*", await self.answer(prompt))
        middle = (len(words) + 1) // 2
        for number, word in enumerate(words):
            if number:
                await asyncio.sleep(script.seconds("pace", voice.pace))
            if number == middle:
                await self.gates.passed(script.directives.get("gatemid"))
                if "break" in script:
                    raise ScriptedFailure("boom: the stream was told to break")
            yield word
        if words:
            yield None


class Generator(SchematicGenerator[T]):
    """Fills in one of Parlant's schemas; has to be made as ``Generator[schema](cast)``."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    async def generate(self, prompt: Any, hints: Mapping[str, Any] = {}) -> Any:
        started = time.monotonic()
        content = await self._fill(self.schema.__name__, prompt)
        return SchematicGenerationResult(content=content, info=_info(self.schema.__name__, time.monotonic() - started))

    async def _fill(self, name: str, prompt: Any) -> Any:
        if name == "CannedResponseDraftSchema":
            return minimal.fill(self.schema, response_body=await self._cast.answer(prompt))
        if "PreambleSchema" in name:
            return minimal.fill(self.schema, preamble=await self._cast.preamble(prompt))
        if name.endswith("GuidelineMatchesSchema"):
            check = minimal.item(self.schema, "checks")
            applies = await self._cast.match(prompt)
            # Each agent has one guideline, and Parlant numbers those of a prompt from 1.
            return minimal.fill(self.schema, checks=[minimal.fill(check, guideline_id="1", applies=applies)])
        return minimal.fill(self.schema)

    @property
    def id(self) -> str:
        return "parlant-sync-demo"

    @property
    def max_tokens(self) -> int:
        return 1_000_000

    @property
    def tokenizer(self) -> Any:
        return ZeroEstimatingTokenizer()


class Streamer(StreamingTextGenerator):
    """Streams answers, from Parlant 3.2 on."""

    def __init__(self, cast: Cast) -> None:
        self._cast = cast

    def generate(self, prompt: Any, hints: Mapping[str, Any] = {}) -> Any:
        started = time.monotonic()
        return StreamingTextGenerationResult(
            stream=self._cast.stream(prompt),
            info_getter=lambda: _info("streaming", time.monotonic() - started),
        )

    @property
    def id(self) -> str:
        return "parlant-sync-demo"

    @property
    def tokenizer(self) -> Any:
        return ZeroEstimatingTokenizer()


class HashingEmbedder(Embedder):
    """Bags of hashed words: enough for Parlant's own look-ups, which find little here anyway."""

    async def embed(self, texts: list[str], hints: Mapping[str, Any] = {}) -> Any:
        return EmbeddingResult(vectors=[_embed(text) for text in texts])

    @property
    def id(self) -> str:
        return "parlant-sync-demo"

    @property
    def max_tokens(self) -> int:
        return 1_000_000

    @property
    def tokenizer(self) -> Any:
        return ZeroEstimatingTokenizer()

    @property
    def dimensions(self) -> int:
        return _DIMENSIONS


class OfflineNLPService(NLPService):
    """What the Parlant server is given as its ``nlp_service``."""

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
