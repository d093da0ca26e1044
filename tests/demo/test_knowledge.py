"""The collections, and the search that follows a conversation."""

from __future__ import annotations

import pytest

from parlant_sync.demo.server.knowledge import Collection, Entry, load

COLLECTIONS = {name: load(name) for name in ("research", "welfare")}
FACETS = ("more", "how", "who", "when", "cost", "limits")


@pytest.fixture(params=sorted(COLLECTIONS))
def collection(request: pytest.FixtureRequest) -> Collection:
    return COLLECTIONS[request.param]


def talk(collection: Collection, *messages: str) -> list[str]:
    """The answers to *messages*, said one after the other."""
    answers: list[str] = []
    for number in range(len(messages)):
        answers.append(collection.answer(messages[: number + 1], answers))
    return answers


def entry(collection: Collection, title: str) -> Entry:
    return next(entry for entry in collection.entries if entry.title == title)


def test_a_collection_has_a_dozen_entries_or_more(collection: Collection) -> None:
    assert len(collection.entries) >= 12
    assert len({entry.title for entry in collection.entries}) == len(collection.entries)


def test_all_texts_are_different_whole_sentences(collection: Collection) -> None:
    texts = [text for entry in collection.entries for text in (entry.summary, *entry.facets.values())]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert text[0].isupper() or text.startswith("arXiv"), text
        assert text.endswith("."), text
        assert "\n" not in text, text  # Parlant would make several messages of it
        assert text.isascii(), text


def test_each_entry_is_found_by_its_title_and_by_each_of_its_keywords(collection: Collection) -> None:
    for entry in collection.entries:
        for name in (entry.title, *entry.keywords):
            assert collection.find(f"Please tell me about {name}.") is entry, name


@pytest.mark.parametrize(
    ("name", "question", "title"),
    [
        ("research", "What is a transformer?", "the transformer"),
        ("research", "How does RAG work?", "retrieval-augmented generation"),
        ("research", "Are preprints reviewed?", "preprints"),
        ("research", "What does a p-value mean?", "statistical significance"),
        ("welfare", "Who can get long-term care insurance?", "long-term care insurance"),
        ("welfare", "My mother has dementia, where can we turn?", "the community general support centre"),
        ("welfare", "Is there caregivers' leave?", "family care leave"),
        ("welfare", "I think I have a depression", "mental-health help"),
    ],
)
def test_a_question_finds_its_topic(name: str, question: str, title: str) -> None:
    found = COLLECTIONS[name].find(question)
    assert found is not None
    assert found.title == title


@pytest.mark.parametrize(
    ("follow_up", "facet"),
    [
        ("And who uses it?", "who"),
        ("Who is eligible?", "who"),
        ("How does it work?", "how"),
        ("how do I apply", "how"),
        ("What about costs?", "cost"),
        ("How much is it?", "cost"),
        ("When did that start?", "when"),
        ("How long does it take?", "when"),
        ("Are there any drawbacks?", "limits"),
        ("Tell me more about that", "more"),
        ("ok, and?", "more"),
    ],
)
def test_a_follow_up_stays_with_the_topic(collection: Collection, follow_up: str, facet: str) -> None:
    for entry in collection.entries:
        assert talk(collection, f"What is {entry.title}?", follow_up) == [entry.summary, entry.facets[facet]]


def test_a_follow_up_reaches_back_over_other_follow_ups(collection: Collection) -> None:
    first = collection.entries[0]
    answers = talk(collection, first.title, "who?", "thanks!", "what about costs?", "and the risks?")
    assert answers[3:] == [first.facets["cost"], first.facets["limits"]]


def test_a_new_topic_gets_its_summary_and_what_was_asked(collection: Collection) -> None:
    first, second = collection.entries[:2]
    answers = talk(collection, first.title, f"And what does {second.title} cost?", "who?")
    assert answers == [first.summary, f"{second.summary} {second.facets['cost']}", second.facets["who"]]


def test_tell_me_more_goes_through_the_entry_and_ends(collection: Collection) -> None:
    first = collection.entries[0]
    answers = talk(collection, first.title, *["Tell me more about that"] * 7)
    assert answers[:7] == [first.summary, *(first.facets[facet] for facet in FACETS)]
    assert answers[7].startswith(f"That is all I have on {first.title}.")


def test_what_it_does_not_know_it_says(collection: Collection) -> None:
    (answer,) = talk(collection, "How do I bake bread?")
    assert answer.startswith("I have nothing on that. I can tell you about")
    assert all(entry.title in answer for entry in collection.entries)


def test_an_empty_conversation_begins_with_a_greeting(collection: Collection) -> None:
    assert collection.answer([""]).startswith("Hello! I can tell you about")
    assert collection.answer(["Hi!"]) == collection.answer([""])
    assert collection.answer(["Thank you"]) == "You are welcome."


def test_speaking_by_itself_it_comes_back_to_the_topic(collection: Collection) -> None:
    first = collection.entries[0]
    assert collection.answer([first.title, ""]) == f"Would you like to know more about {first.title}?"


def test_it_knows_when_the_conversation_is_about_its_field(collection: Collection) -> None:
    assert collection.knows([collection.entries[0].title, "and who uses it?"])
    assert not collection.knows(["How do I bake bread?"])
