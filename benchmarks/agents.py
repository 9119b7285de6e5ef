"""What does middleware add to an agent's turn, and how much does redaction with a real tagger mask?

    python -m benchmarks.agents CLASSIFIER TAGGER [--texts FILE] [--tagged FILE] [--rounds 300]

The chat model answers at once, so that a turn is what LangChain and the middleware take. Prints two Markdown tables.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from benchmarks.measure import Table, in_turns, machine, medians, write
from benchmarks.texts import read_texts
from lc_finetune import EntityTagger, TextClassifier
from lc_finetune.agents import EntityRedactionMiddleware, SentimentMiddleware
from lc_finetune.data import TaggedExample, read_examples, sample_file


class Listener(FakeListChatModel):
    """Answers at once and remembers what it was told last."""

    responses: list[str] = Field(default=["Fine."])
    heard: list[str] = Field(default_factory=list)

    def _call(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> str:
        self.heard[:] = [message.text for message in messages]
        return "Fine."


def turn(agent: Any, texts: Iterator[str], threads: Iterator[int]) -> None:
    """Say one thing in a conversation of its own."""
    config = {"configurable": {"thread_id": str(next(threads))}}
    agent.invoke({"messages": [HumanMessage(next(texts))]}, config)


def added_time(classifier: TextClassifier, texts: Sequence[str], rounds: int) -> Table:
    """Time a turn with and without sentiment, beside one call of the classifier, in turns on the same texts."""
    sentiment = SentimentMiddleware(classifier, valence=dict.fromkeys(classifier.labels[:1], -1.0))
    calls = cycle(texts)
    ways: dict[str, Callable[[], Any]] = {"classifier.invoke": lambda: classifier.invoke(next(calls))}
    used: dict[str, list[Any]] = {"agent": [], "agent with sentiment": [sentiment]}
    for name, middleware in used.items():
        agent = create_agent(Listener(), middleware=middleware, checkpointer=InMemorySaver())
        ways[name] = partial(turn, agent, cycle(texts), count())
    for run in ways.values():
        run()
    seconds = in_turns(ways, rounds)
    taken = medians(seconds)
    pairs = zip(seconds["agent with sentiment"], seconds["agent"], strict=True)
    added = statistics.median(after - before for after, before in pairs)
    rows: dict[str, tuple[float | int | None, ...]] = {
        name: (1000 * time, time / taken["classifier.invoke"]) for name, time in taken.items()
    }
    rows["added by the middleware"] = (1000 * added, added / taken["classifier.invoke"])
    return Table(
        "sentiment: one human message",
        ("ms", "times classifier.invoke"),
        rows,
        [f"Medians of {rounds} rounds; what is added is the median of the differences within a round."],
    )


def masked(tagger: EntityTagger, examples: Sequence[TaggedExample]) -> Table:
    """Count the entities of which the chat model heard nothing in clear, by type."""
    model = Listener()
    agent = create_agent(model, middleware=[EntityRedactionMiddleware(tagger, on_error="block")])
    found, known = Counter[str](), Counter[str]()
    for example in examples:
        agent.invoke({"messages": [HumanMessage(example.text)]})
        for start, end, label in example.spans:
            known[label] += 1
            found[label] += example.text[start:end] not in model.heard[-1]
    rows = {label: (known[label], found[label], found[label] / known[label]) for label in sorted(known)}
    rows["all"] = (known.total(), found.total(), found.total() / max(known.total(), 1))
    return Table(
        "redaction: entities that do not reach the chat model",
        ("entities", "masked", "share"),
        {**rows},
        ["An entity counts as masked if its text is not in the message that the model gets."],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What middleware costs, and how much redaction masks.")
    parser.add_argument("classifier", help="checkpoint of a text classifier")
    parser.add_argument("tagger", help="checkpoint of a tagger")
    parser.add_argument("--texts", default=str(sample_file("sentiment", "test")), help="labelled texts to say")
    parser.add_argument("--tagged", default=str(sample_file("entities", "test")), help="texts with their entities")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="write the figures as JSON, too")
    given = parser.parse_args(arguments)
    classifier = TextClassifier.from_checkpoint(given.classifier, device=given.device)
    tagger = EntityTagger.from_checkpoint(given.tagger, device=given.device)
    examples = [example for example in read_examples(given.tagged).examples if isinstance(example, TaggedExample)]
    tables = [added_time(classifier, read_texts(given.texts, 1_000), given.rounds), masked(tagger, examples)]
    write(tables, machine(given.device), given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
