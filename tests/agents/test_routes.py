"""Routing by label in LangGraph graphs."""

from typing import Any, NotRequired, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command

from lc_finetune import Classification, ConfigError
from lc_finetune.agents import command_by_label, route_by_label
from lc_finetune.testing import FakeClassifier

TOPIC = FakeClassifier(labels=("order", "refund", "other"), label_of={"Hello": "other", "Money!": "refund"})
ROUTES = {"order": "orders", "refund": "refunds"}
IMAGE = {"type": "image", "base64": "aGk=", "mime_type": "image/png"}


class State(MessagesState):
    went: NotRequired[str]
    classification: NotRequired[dict[str, Any] | None]


def going(name: str) -> Any:
    return lambda state: {"went": name}


def by_edge(classifier: Any = TOPIC) -> Any:
    graph = StateGraph(State)
    for name in ("orders", "refunds", "person"):
        graph.add_node(name, going(name))
        graph.add_edge(name, END)
    graph.add_conditional_edges(START, route_by_label(classifier, ROUTES, default="person"))
    return graph.compile()


def by_command(classifier: Any = TOPIC) -> Any:
    graph = StateGraph(State)
    node = command_by_label(classifier, ROUTES, default="person")
    graph.add_node("triage", node, destinations=("orders", "refunds", "person"))
    for name in ("orders", "refunds", "person"):
        graph.add_node(name, going(name))
    graph.add_edge(START, "triage")
    return graph.compile(checkpointer=InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=None)))


def broken(state: Any) -> Classification:
    raise RuntimeError("cannot classify")


@pytest.mark.parametrize("graph", [by_edge, by_command])
@pytest.mark.parametrize(
    ("said", "classifier", "went"),
    [
        ("Where?", TOPIC, "orders"),
        ("Money!", TOPIC, "refunds"),
        ("Hello", TOPIC, "person"),
        ("Money!", TOPIC.model_copy(update={"accepted": False}), "person"),
        ("Money!", TOPIC.model_copy(update={"accepted": True}), "refunds"),
        ([IMAGE], TOPIC, "person"),
        (None, TOPIC, "person"),
        ("Money!", RunnableLambda(broken), "person"),
    ],
    ids=["order", "refund", "no route", "not accepted", "accepted", "images only", "empty", "error"],
)
async def test_a_state_goes_to_the_node_of_its_label(graph: Any, said: Any, classifier: Any, went: str) -> None:
    """What has none goes to the default; synchronously and asynchronously."""
    compiled = graph(classifier)
    asked = {"messages": [] if said is None else [HumanMessage(said)]}

    assert went == compiled.invoke(asked, {"configurable": {"thread_id": "1"}})["went"]
    assert went == (await compiled.ainvoke(asked, {"configurable": {"thread_id": "2"}}))["went"]


def test_the_edges_are_drawn_without_a_path_map() -> None:
    """To each node, and to no other."""
    edges = {edge.target for edge in by_edge().get_graph().edges if edge.source == "__start__"}

    assert {"orders", "refunds", "person"} == edges


def test_a_commands_node_notes_the_result_as_plain_data() -> None:
    """For later nodes; without the text, which the messages hold."""
    graph = by_command()
    config: Any = {"configurable": {"thread_id": "1"}}
    graph.invoke({"messages": [HumanMessage("Money!")]}, config)
    noted = graph.get_state(config).values["classification"]

    assert (noted["label"], noted["score"]) == ("refund", 1.0)
    assert "text" not in noted
    assert graph.invoke({"messages": [HumanMessage([IMAGE])]}, config)["classification"] is None


def test_a_state_may_hold_its_text_under_a_key() -> None:
    """And a node of one's own may make the command."""

    class Ticket(TypedDict):
        text: str

    route = route_by_label(TOPIC, {"refund": "refunds"}, default=END)
    graph = StateGraph(Ticket)
    graph.add_node("triage", lambda state: Command(goto=route.invoke(state)), destinations=("refunds", END))
    graph.add_node("refunds", lambda state: {"text": "paid"})
    graph.add_edge(START, "triage")

    assert [graph.compile().invoke({"text": text})["text"] for text in ("Money!", "Where?")] == ["paid", "Where?"]


@pytest.mark.parametrize("make", [route_by_label, command_by_label])
def test_a_mistyped_label_gets_a_guess(make: Any) -> None:
    """When the route is made."""
    with pytest.raises(ConfigError, match="did you mean 'refund'"):
        make(TOPIC, {"refnd": "refunds"}, default="person")
