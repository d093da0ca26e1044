"""A small collection of texts, and a keyword search that follows a conversation.

Deterministic: the same conversation always gets the same answer. Each entry has a summary and
facets ("who", "how", ...). A message that names a topic moves the conversation there; one that
names none ("And who uses it?") stays with the topic at hand, and its question word picks the
facet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Question words by facet, in the order in which they are tried: "how much" before "how".
_CUES = tuple(
    (facet, re.compile(rf"\b(?:{words})\b"))
    for facet, words in (
        ("cost", r"how much|cost|price|pay|paid|fee|expensive|cheap|money|budget"),
        ("when", r"when|how long|how soon|since|deadline|history"),
        (
            "limits",
            r"limit|limitation|drawback|problem|weakness|risk|criticism|disadvantage|downside|pitfall"
            r"|careful|wrong",
        ),
        ("who", r"who|whom|whose|eligible|eligibility|qualify|for me|user|use"),
        ("how", r"how|apply|application|step|procedure|work|working|start|where"),
    )
)
# The order in which "tell me more" goes through an entry.
_ORDER = ("more", "how", "who", "when", "cost", "limits")

_GREETING = re.compile(r"\W*(?:hi|hello|hey|good (?:morning|afternoon|evening|day))\b[\W]*\Z")
_THANKS = re.compile(r"\b(?:thanks?|thank you|bye|goodbye)\b")
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Entry:
    title: str
    keywords: tuple[str, ...]
    summary: str
    facets: Mapping[str, str]


@dataclass(frozen=True)
class Collection:
    field: str
    entries: tuple[Entry, ...]

    def knows(self, said: Sequence[str]) -> bool:
        """Whether the conversation has come to a topic of this collection."""
        return self.topic(said) is not None

    def topic(self, said: Sequence[str]) -> Entry | None:
        """The entry the conversation is about: the latest one that a message named."""
        for text in reversed(said):
            if entry := self.find(text):
                return entry
        return None

    def find(self, text: str) -> Entry | None:
        """The entry that *text* names best; of two equals the first in the collection."""
        words = f" {_words(text)} "
        best, score = None, 0
        for entry in self.entries:
            # Longer keywords say more: "peer review" outweighs "review".
            found = sum(len(keyword) for keyword in entry.keywords if f" {keyword} " in words)
            if found > score:
                best, score = entry, found
        return best

    def answer(self, said: Sequence[str], told: Sequence[str] = ()) -> str:
        """Answer the last of the customer's messages *said*.

        *told*: what the agent has said so far, so that "tell me more" does not repeat it.
        """
        text = said[-1].lower() if said else ""
        if not text.strip():
            return self._opening(self.topic(said))
        named = self.find(text)
        if named is None and _GREETING.match(text):
            return self._opening(None)
        if named is None and _THANKS.search(text):
            return "You are welcome."
        current = self.topic(said[:-1])
        entry = named or current
        if entry is None:
            return f"I have nothing on that. {self._menu()}"
        facet = _facet(text, entry)
        if entry is not current:
            # A new topic: the summary first, then what was asked in particular.
            return entry.summary if facet is None else f"{entry.summary} {entry.facets[facet]}"
        return self._next(entry, told) if facet is None else entry.facets[facet]

    def _next(self, entry: Entry, told: Sequence[str]) -> str:
        heard = "\n".join(told)
        for name in _ORDER:
            if entry.facets[name] not in heard:
                return entry.facets[name]
        return f"That is all I have on {entry.title}. {self._menu()}"

    def _opening(self, entry: Entry | None) -> str:
        if entry is not None:
            return f"Would you like to know more about {entry.title}?"
        return f"Hello! {self._menu()}"

    def _menu(self) -> str:
        titles = [entry.title for entry in self.entries]
        return f"I can tell you about {self.field}: {', '.join(titles[:-1])} and {titles[-1]}."


def load(name: str) -> Collection:
    """Read the collection *name* that lies beside this file."""
    data = json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
    return Collection(
        field=data["field"],
        entries=tuple(
            Entry(
                title=entry["title"],
                keywords=tuple(_words(keyword) for keyword in entry["keywords"]),
                summary=entry["summary"],
                facets={name: entry[name] for name in _ORDER},
            )
            for entry in data["entries"]
        ),
    )


def _facet(text: str, entry: Entry) -> str | None:
    """The facet that *text* asks for; None for *entry* as a whole, or more of it."""
    words = f" {_words(text)} "
    for keyword in entry.keywords:
        words = words.replace(f" {keyword} ", " ")  # "high-cost" is no question about costs
    for name, pattern in _CUES:
        if pattern.search(words):
            return name
    return None


def _words(text: str) -> str:
    """*text* without case, punctuation and plurals, which is all that this vocabulary needs."""
    return " ".join(_stem(word) for word in _WORD.findall(text.lower()))


def _stem(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        return word[:-1]
    return word
