"""Customer service: intent and entities of a query → the answer of its route, or a hand-over to a person.

Run `python -m chains.customer_service` after `make demo` has trained `runs/demo/support` and `runs/demo/entities`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda

from lc_finetune import Classification, EntityTagger, FanOut, LabelRouter, LCFinetuneError, Tagging, TextClassifier

TEMPLATES = {
    "track_order": "Let me look up where {ORDER_ID|your order} is.",
    "cancel_order": "I will try to stop {ORDER_ID|your order} before it leaves.",
    "return_item": "You can send {PRODUCT|the item} back within 30 days; a label is on its way.",
    "refund_status": "I will check on your refund of {MONEY|what you paid}.",
    "damaged_item": "I am sorry that {PRODUCT|the item} arrived damaged. A photo is all we need.",
    "invoice_request": "The invoice for {ORDER_ID|your order} will be in your inbox shortly.",
}
"""Answers by intent. `{TYPE|otherwise}` is filled with the first entity of the type, or with what follows the bar."""

LEAST_SCORE = 0.4
"""Score below which a query of an uncalibrated classifier goes to a person."""

QUERIES = (
    "Where is order #48213? It was due on Monday.",
    "please cancel ORD-2291-X, I ordered it twice",
    "The blue ceramic kettle came with a crack in the lid.",
    "Could you send me the invoice for #55120?",
    "Still no sign of the £39.90 you owe me back",
    "How do I send these boots back? They pinch.",
    "I can't log in, it says my password is wrong",
    "My card was declined twice at checkout",
    "I moved to Gdańsk, please ship to my new address",
    "Does the desk lamp come with a bulb?",
    "Can I talk to a human being please",
    "What is the capital of Australia?",
)


def build_chain(
    classifier: Runnable[Any, Classification],
    tagger: Runnable[Any, Tagging],
    *,
    person: Runnable[Any, str] | None = None,
    templates: Mapping[str, str] = TEMPLATES,
    least_score: float = LEAST_SCORE,
) -> Runnable[Any, dict[str, Any]]:
    """Compose classifier and tagger with the answers.

    Args:
        classifier: Gives the intent.
        tagger: Gives the entities that fill the templates.
        person: Takes what has no template, is not accepted, or is less certain than `least_score`.
        templates: Answers by intent.
        least_score: For classifiers without a calibrated `accepted`.

    Returns:
        A Runnable from a query to a dict with `classification`, `tagging`, `route` and `answer`.
    """
    person = person or RunnableLambda(lambda _: "A colleague will be with you in a moment.").with_config(
        run_name="person"
    )

    def doubtful(item: dict[str, Any]) -> dict[str, Any]:
        intent: Classification = item["classification"]
        if intent.accepted is None and (intent.score or 0.0) < least_score:
            intent = intent.model_copy(update={"accepted": False})
        return {**item, "classification": intent}

    def routed(name: str, answer: Runnable[Any, str]) -> Runnable[Any, dict[str, Any]]:
        return FanOut.assign(route=lambda _: name, answer=answer)

    router = LabelRouter(
        routes={label: routed(label, _fill(template)) for label, template in templates.items()},
        default=routed("person", person),
    )
    return (FanOut(classification=classifier, tagging=tagger) | RunnableLambda(doubtful) | router).with_config(
        run_name="customer_service"
    )


def _fill(template: str) -> Runnable[Any, str]:
    def fill(item: dict[str, Any]) -> str:
        tagging: Tagging = item["tagging"]
        return fill_template(template, tagging)

    return RunnableLambda(fill)


def fill_template(template: str, tagging: Tagging) -> str:
    """Fill each `{TYPE|otherwise}` with the first entity of the type, or with `otherwise`.

    Example:
        >>> fill_template("Order {ORDER_ID|of yours}.", Tagging(text="hello"))
        'Order of yours.'
    """
    first = {entity.label: entity.text for entity in reversed(tagging.entities)}
    return re.sub(r"\{(\w+)\|([^}]*)\}", lambda match: first.get(match[1], match[2]), template)


def main() -> int:
    """Answer a dozen queries and print a table."""
    from rich.console import Console
    from rich.table import Table

    try:
        chain = build_chain(
            TextClassifier.from_checkpoint("runs/demo/support"), EntityTagger.from_checkpoint("runs/demo/entities")
        )
    except LCFinetuneError as error:
        print(f"{error}\nRun `make demo` first: it trains both models.", file=sys.stderr)
        return 2
    table = Table(title="Customer service")
    for name in ("query", "label", "confidence", "entities", "route"):
        table.add_column(name, no_wrap=name in ("label", "confidence", "route"))
    for item in chain.batch(list(QUERIES)):
        intent, tagging = item["classification"], item["tagging"]
        found = ", ".join(f"{entity.label} {entity.text}" for entity in tagging.entities)
        table.add_row(intent.text, intent.label, f"{intent.score:.2f}", found, item["route"])
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
