"""Classifier, tagger and router beyond the common contract."""

import asyncio
import copy
import json
import pickle
import shutil
import threading
from collections import UserDict
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests
from pydantic import BaseModel, ValidationError

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    ConfigError,
    EntityTagger,
    FanOut,
    InputError,
    LabelOutputParser,
    LabelRouter,
    Tagging,
    TextClassifier,
)
from lc_finetune.inference.predictor import Predictor
from lc_finetune.testing import tiny_checkpoint


@pytest.fixture(scope="module")
def classifier(tiny_classifier: Checkpoint) -> TextClassifier:
    return TextClassifier.from_checkpoint(tiny_classifier.path, device="cpu")


@pytest.mark.parametrize(
    "value",
    [
        "my card",
        {"text": "my card"},
        HumanMessage("my card"),
        HumanMessage([{"type": "text", "text": "my card"}]),
        [HumanMessage("hello"), HumanMessage("my card"), AIMessage("yes?")],
        {"messages": [HumanMessage("my card"), AIMessage("yes?")]},
        {"messages": [{"role": "user", "content": "my card"}]},
        {"messages": [("human", "my card"), ("ai", "yes?")]},
        {"messages": ["hello", "my card"]},
        {"messages": "my card"},
        {"messages": HumanMessage("my card")},
        {"messages": [HumanMessage([{"type": "image", "url": "x"}, {"type": "text", "text": "my card"}])]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "my card"}]}]},
        [{"role": "user", "content": "my card"}, {"role": "assistant", "content": "yes?"}],
        [("user", "my card")],
        {"text": HumanMessage("my card")},
        {"text": "my card", "messages": []},
        Classification(text="my card", label="x"),
        Document(page_content="my card"),
        ChatPromptTemplate.from_template("my {x}").invoke({"x": "card"}),
    ],
)
def test_a_text_is_read_from_whatever_holds_it(classifier: TextClassifier, value: Any) -> None:
    """Strings, mappings, messages, states, documents, prompts."""
    assert classifier.invoke(value).text == "my card"


endless: dict[str, Any] = {}
endless["text"] = endless


@pytest.mark.parametrize(
    "value",
    [
        3,
        None,
        b"secret",
        {"other": "secret"},
        {str(i): "secret" for i in range(1000)},
        {},
        {"text": 3},
        {"text": None},
        {"text": {"text": "secret"}},
        endless,
        {"messages": None},
        {"messages": []},
        {"messages": [AIMessage("secret")]},
        {"messages": [{"role": "secret", "content": "secret"}]},
        {"messages": [{"content": "secret"}]},
        {"messages": [3]},
        {"messages": [HumanMessage("secret"), HumanMessage([{"type": "image", "url": "secret"}])]},
        [AIMessage("secret")],
        ["secret", "secret"],
        ("human", "secret"),
        [],
        HumanMessage([{"type": "image", "url": "secret"}]),
        ChatPromptTemplate.from_messages([("system", "secret")]).invoke({}),
    ],
)
def test_anything_else_is_refused_without_quoting_it(classifier: TextClassifier, value: Any) -> None:
    """The message says what was expected and which type was found; the others of a batch are answered."""
    answer, error = classifier.batch(["my card", value], return_exceptions=True)

    assert answer.text == "my card"
    assert isinstance(error, InputError)
    assert str(error).startswith("Expected")
    assert "secret" not in str(error)
    assert len(str(error)) < 400
    assert error.__cause__ is error.__context__ is None


def test_a_document_without_content_is_a_blank_text(classifier: TextClassifier) -> None:
    """As any blank text."""
    assert classifier.invoke(Document(page_content="")).text == ""


def test_a_result_is_frozen_hashable_and_sums_to_one(classifier: TextClassifier) -> None:
    """Scores are read-only probabilities; the text stays out of the repr."""
    result = classifier.invoke("my secret card")

    assert len({result, classifier.invoke("my secret card")}) == 1
    assert pytest.approx(1.0) == sum(result.scores.values())
    assert result.score == result.scores[result.label] == max(result.scores.values())
    assert "secret" not in repr(result)
    assert result == Classification.model_validate_json(result.model_dump_json())
    with pytest.raises(TypeError):
        result.scores["card"] = 1.0  # type: ignore[index]


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_a_blank_text_is_valid_but_never_accepted(classifier: TextClassifier, blank: str) -> None:
    """It has a label, as every text."""
    assert classifier.invoke(blank).accepted is False
    assert classifier.invoke("words").accepted is None


def test_pick_and_assign_work_on_results(classifier: TextClassifier) -> None:
    """As methods and as LangChain's own Runnables; the fields' schema comes along."""
    label = classifier.invoke("my card").label

    assert label == classifier.pick("label").invoke("my card") == (classifier | RunnablePick("label")).invoke("my card")
    assert {"label": label, "text": "my card"} == classifier.pick(["label", "text"]).invoke("my card")
    extended = classifier | RunnablePassthrough.assign(size=lambda fields: len(fields["text"]))
    assert (
        7
        == extended.invoke("my card")["size"]
        == classifier.assign(size=lambda f: len(f["text"])).invoke("my card")["size"]
    )
    assert {"label", "score", "size"} <= set(extended.get_output_jsonschema()["properties"])


def test_a_result_is_picked_from_and_assigned_to_within_a_sequence(classifier: TextClassifier) -> None:
    """With `pick` and `FanOut.assign`, one result after another when streamed; LangChain's own want the parentheses."""
    label = classifier.invoke("my card").label
    prompt = ChatPromptTemplate.from_template("my {x}")

    assert label == (prompt | classifier.pick("label")).invoke({"x": "card"})
    assert label == (prompt | (classifier | RunnablePick("label"))).invoke({"x": "card"})
    assert (prompt | classifier | FanOut.assign(n=lambda fields: 1)).invoke({"x": "card"})["label"] == label
    assert label == classifier.pipe(RunnablePick(["label"]), RunnablePick("label")).invoke("my card")
    assert [label] * 2 == list(classifier.pick("label").transform(iter(["my card"] * 2)))


def test_schemas_come_along_when_composed(classifier: TextClassifier) -> None:
    """In: what the first step takes. Out: the result, or the field that is picked."""
    prompt = ChatPromptTemplate.from_template("my {x}")

    assert classifier.get_input_jsonschema()["type"] == "string"
    assert list((prompt | classifier).get_input_jsonschema()["properties"]) == ["x"]
    assert {"label", "scores"} <= set((prompt | classifier).get_output_jsonschema()["properties"])
    assert classifier.pick("label").get_output_jsonschema()["type"] == "string"
    assert (prompt | classifier.pick("label")).get_output_jsonschema()["type"] == "string"
    picked = (classifier | RunnablePick(["label", "accepted"])).get_output_jsonschema()
    assert {"label", "accepted"} == set(picked["properties"])
    assert classifier.with_types(input_type=dict[str, str]).get_input_jsonschema()["type"] == "object"
    parallel = RunnableParallel(a=classifier)
    assert parallel.get_output_jsonschema()["properties"]["a"] == {"$ref": "#/$defs/Classification"}
    assert parallel.get_input_jsonschema()["type"] == "string"


def test_a_run_says_which_model_answered(classifier: TextClassifier) -> None:
    """In its metadata, as LangChain's models do, beside the caller's own."""
    collector = RunCollectorCallbackHandler()
    classifier.batch(["a", "b"], {"callbacks": [collector], "metadata": {"mine": 1}})
    classifier.invoke("c", {"callbacks": [collector]})

    expected = {"ls_provider": "lc_finetune", "ls_model_name": classifier.checkpoint}
    for run in collector.traced_runs:
        assert expected.items() <= run.metadata.items()
        assert run.metadata["ls_model_type"] == "text-classification"
    assert [run.metadata.get("mine") for run in collector.traced_runs] == [1, 1, None]


def test_max_concurrency_never_shrinks_a_forward(classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model sees the whole batch."""
    sizes: list[int] = []
    predict = Predictor.predict
    monkeypatch.setattr(
        Predictor, "predict", lambda self, texts, _: (sizes.append(len(texts)), predict(self, texts))[1]
    )
    classifier.batch(["a"] * 9, {"max_concurrency": 1})

    assert sizes == [9]


def test_copies_share_the_weights_and_equal_each_other(classifier: TextClassifier, tiny_tagger: Checkpoint) -> None:
    """Also deep ones; a copy for another checkpoint does not."""
    lazy = TextClassifier(checkpoint=classifier.checkpoint, device="cpu")

    assert classifier == lazy == copy.copy(classifier) == copy.deepcopy(classifier) == classifier.model_copy(deep=True)
    assert len({classifier, lazy}) == 1
    assert copy.deepcopy(classifier)._predictor is classifier._predictor
    with pytest.raises(CheckpointError):
        classifier.model_copy(update={"checkpoint": str(tiny_tagger.path)}).invoke("my card")
    assert classifier != EntityTagger(checkpoint=classifier.checkpoint, device="cpu")
    assert classifier != lazy.model_copy(update={"input_key": "q"})


def test_a_runnable_can_be_sent_to_another_process(classifier: TextClassifier) -> None:
    """Its fields travel, its weights do not: it loads there."""
    sent = pickle.dumps(classifier)

    assert len(sent) < 10_000
    assert pickle.loads(sent) == classifier
    assert pickle.loads(sent).invoke("my card") == classifier.invoke("my card")


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_runnable_does_nothing_before_its_first_call(tmp_path: Path) -> None:
    """Neither made, shown, described, composed, copied nor written and read does it touch the checkpoint."""
    nowhere = TextClassifier(checkpoint=str(tmp_path / "nowhere"))
    chain = nowhere | FanOut(label=lambda result: result.label)

    assert "nowhere" in repr(nowhere)
    assert copy.deepcopy(nowhere)._predictor is None
    assert chain.get_graph().nodes
    assert nowhere.get_output_jsonschema()["title"] == "Classification"
    twin = loads(dumps(nowhere), allowed_objects=[TextClassifier], valid_namespaces=["lc_finetune"])
    assert twin == nowhere
    with pytest.raises(CheckpointError, match="nowhere"):
        nowhere.invoke("my card")


def test_alternatives_are_chosen_without_a_reload(classifier: TextClassifier, tiny_tagger: Checkpoint) -> None:
    """Each keeps its own weights."""
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu")
    either = classifier.configurable_alternatives(ConfigurableField(id="task"), default_key="intent", tags=tagger)
    before = classifier._predictor, tagger._predictor

    assert isinstance(either.invoke("Ann", {"configurable": {"task": "tags"}}), Tagging)
    assert isinstance(either.invoke("Ann"), Classification)
    assert before == (classifier._predictor, tagger._predictor)


def test_configurable_fields_do_not_reload(classifier: TextClassifier) -> None:
    """The weights are shared by every rebuilt instance."""
    configurable = classifier.configurable_fields(input_key=ConfigurableField(id="key"))
    result = configurable.invoke({"q": "my card"}, {"configurable": {"key": "q"}})

    assert classifier.invoke("my card") == result
    rebuilt = TextClassifier(checkpoint=classifier.checkpoint, device="cpu").warm_up()
    assert rebuilt._predictor is classifier._predictor


def test_a_closed_classifier_loads_again(tiny_classifier: Checkpoint) -> None:
    """`close` lets go of the weights; the next call is served."""
    one = TextClassifier.from_checkpoint(tiny_classifier, device="cpu")
    before = one.invoke("my card")
    one.close()

    assert one._predictor is None
    assert before == one.invoke("my card")


def test_retraining_into_the_same_folder_is_noticed(tmp_path: Path) -> None:
    """A new Runnable over the folder serves the new weights."""
    first = TextClassifier.from_checkpoint(tiny_checkpoint(tmp_path / "c", seed=0), device="cpu").invoke("my card")
    shutil.rmtree(tmp_path / "c")
    second = TextClassifier.from_checkpoint(tiny_checkpoint(tmp_path / "c", seed=1), device="cpu").invoke("my card")

    assert first.scores != second.scores


def test_texts_of_an_iterator_are_answered_one_by_one(classifier: TextClassifier) -> None:
    """Chunks of one message are put together first."""
    assert [r.text for r in classifier.transform(iter(["a", "b"]))] == ["a", "b"]
    chunks = iter([AIMessageChunk("my "), AIMessageChunk("card")])
    assert [r.text for r in classifier.transform(chunks)] == ["my card"]
    parts: Any = {"text": RunnablePassthrough(), "size": RunnableLambda(len)}
    assert [r.text for r in (parts | classifier).stream("my card")] == ["my card"]


def test_a_thread_per_item_gives_the_same_as_a_batch(classifier: TextClassifier) -> None:
    """LangChain's own fan-out calls from several threads at once."""
    texts = [f"text number {i}" for i in range(40)]
    fanned = RunnableParallel(one=classifier, two=RunnableLambda(len)).batch(texts)

    expected = classifier.batch(texts)
    assert [r.label for r in expected] == [item["one"].label for item in fanned]


async def test_the_event_loop_is_never_blocked(classifier: TextClassifier) -> None:
    """A long text is read while other coroutines run."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    await classifier.ainvoke("card " * 20_000)
    ticking.cancel()

    assert ticks > 50


def test_the_wrong_class_for_a_checkpoint_names_the_right_one(
    tiny_classifier: Checkpoint, tiny_tagger: Checkpoint
) -> None:
    """Both ways."""
    with pytest.raises(CheckpointError, match="EntityTagger"):
        TextClassifier.from_checkpoint(tiny_tagger)
    with pytest.raises(CheckpointError, match="TextClassifier"):
        EntityTagger.from_checkpoint(tiny_classifier)


@pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"device": "cuda:99"}, {"backend": "tensorflow"}])
def test_a_device_or_backend_that_is_not_there_is_refused(tiny_classifier: Checkpoint, wrong: dict[str, Any]) -> None:
    """With the names that are."""
    with pytest.raises((ConfigError, ValueError), match=r"device|backend"):
        TextClassifier.from_checkpoint(tiny_classifier, **wrong)


class _Tool:
    """What LangChain's own suites ask for."""

    @pytest.fixture(autouse=True)
    def _checkpoint(self, checkpoints: Path, tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
        self.classifier = TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu")
        self.tagger = EntityTagger(checkpoint=str(tiny_tagger.path), device="cpu")

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "Ann lost her card in Oslo"}


class TestClassifierTool(_Tool, ToolsUnitTests):
    """LangChain's unit suite on a classifier's tool."""

    @property
    def tool_constructor(self) -> Any:
        return self.classifier.as_tool(name="intent", description="Tells the intent.")


class TestTaggerTool(_Tool, ToolsUnitTests):
    """LangChain's unit suite on a tagger's tool."""

    @property
    def tool_constructor(self) -> Any:
        return self.tagger.as_tool(name="names", description="Finds the names.")


class TestClassifierToolRuns(_Tool, ToolsIntegrationTests):
    """LangChain's integration suite on a classifier's tool."""

    @property
    def tool_constructor(self) -> Any:
        return self.classifier.as_tool(name="intent", description="Tells the intent.")


class TestTaggerToolRuns(_Tool, ToolsIntegrationTests):
    """LangChain's integration suite on a tagger's tool."""

    @property
    def tool_constructor(self) -> Any:
        return self.tagger.as_tool(name="names", description="Finds the names.")


async def test_a_tool_call_is_answered_by_a_json_message(classifier: TextClassifier) -> None:
    """What an agent sends and gets; arguments that do not fit are LangChain's validation error."""
    tool = classifier.as_tool(name="intent", description="d")
    call = {"type": "tool_call", "name": "intent", "args": {"text": "my card"}, "id": "1"}

    for message in (tool.invoke(call), await tool.ainvoke(call)):
        assert isinstance(message, ToolMessage)
        assert (message.tool_call_id, message.status) == ("1", "success")
        assert json.loads(message.content)["label"] == classifier.invoke("my card").label
    for wrong in ({}, {"text": 3}, {"text": None}):
        with pytest.raises(ValidationError):
            tool.invoke(wrong)
    with pytest.raises(ConfigError, match="args_schema"):
        classifier.as_tool(arg_types={"text": str})


def test_a_tool_may_have_a_schema_of_its_own(classifier: TextClassifier) -> None:
    """As long as it holds the input key."""

    class Ask(BaseModel):
        text: str
        urgent: bool = False

    tool = classifier.as_tool(Ask, name="ask", description="d")

    assert json.loads(tool.invoke({"text": "my card", "urgent": True}))["label"] == classifier.invoke("my card").label


async def test_a_tool_answers_json(classifier: TextClassifier, tiny_tagger: Checkpoint) -> None:
    """Sync and async, for classifier and tagger."""
    tool = classifier.as_tool(name="intent", description="d")
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu").as_tool(name="tags", description="d")

    assert classifier.invoke("my card").label == json.loads(tool.invoke({"text": "my card"}))["label"]
    assert isinstance(json.loads(await tagger.ainvoke({"text": "Ann"}))["entities"], list)


def results(*labels: str) -> list[Classification]:
    return [Classification(text=f"{i}", label=label) for i, label in enumerate(labels)]


def counted(calls: list[int]) -> Any:
    """A branch that records the size of each batch."""

    class Branch(RunnableLambda[Any, str]):
        def batch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[str]:
            calls.append(len(inputs))
            return [f"{value.label}{value.text}" for value in inputs]

        async def abatch(self, inputs: list[Any], *args: Any, **kwargs: Any) -> list[str]:
            return self.batch(inputs)

    return Branch(lambda value: f"{value.label}{value.text}")


async def test_the_router_calls_each_branch_once(classifier: TextClassifier) -> None:
    """One batch per branch, results in order; the default takes the rest."""
    calls: list[int] = []
    branch, other = counted(calls), counted(calls)
    router = LabelRouter(routes={"a": branch, "b": branch}, default=other)

    assert router.batch(results("a", "c", "b", "a")) == ["a0", "c1", "b2", "a3"]
    assert calls == [3, 1]
    assert await router.abatch(results("a", "c")) == ["a0", "c1"]


def test_the_router_sends_what_is_not_accepted_to_the_default() -> None:
    """Whatever its label."""
    router = LabelRouter(routes={"a": lambda r: "a"}, default=lambda r: "person")

    assert router.invoke(Classification(text="", label="a", accepted=False)) == "person"
    assert router.invoke(Classification(text="x", label="a", accepted=True)) == "a"


def test_the_router_finds_the_result_in_a_mapping() -> None:
    """By type, or by its key; a branch receives the whole mapping."""
    (result,) = results("a")
    router = LabelRouter(routes={"a": lambda item: item["n"]})

    assert router.invoke({"n": 7, "c": result}) == 7
    with pytest.raises(InputError, match="key="):
        router.invoke({"one": result, "two": result})
    assert (
        LabelRouter(routes={"a": lambda item: item["n"]}, key="one").invoke({"n": 7, "one": result, "two": result}) == 7
    )


def test_a_failing_branch_fails_only_its_items() -> None:
    """The others keep their results."""
    router = LabelRouter(routes={"a": lambda r: 1 / 0, "b": lambda r: "fine"})
    first, second = router.batch(results("a", "b"), return_exceptions=True)

    assert isinstance(first, ZeroDivisionError)
    assert second == "fine"


async def test_an_item_that_cannot_be_routed_fails_alone() -> None:
    """A tagging, a mapping without one result, or one that raises when it is looked into."""

    class Broken(UserDict[str, Any]):
        def values(self) -> Any:
            raise RuntimeError("broken")

    router = LabelRouter(routes={"a": lambda r: "fine"})
    items = [*results("a"), Tagging(text="x"), Broken(), {}, 3, *results("b")]
    expected = [str, InputError, RuntimeError, InputError, InputError, InputError]

    assert expected == [type(outcome) for outcome in router.batch(items, return_exceptions=True)]
    assert expected == [type(outcome) for outcome in await router.abatch(items, return_exceptions=True)]


async def test_keyword_arguments_reach_the_branch() -> None:
    """In every way of calling."""
    router = LabelRouter(routes={"a": RunnableLambda(lambda result, **kwargs: kwargs)})
    (one,) = results("a")
    expected = {"stop": "."}

    assert expected == router.invoke(one, stop=".") == await router.ainvoke(one, stop=".")
    assert [expected] == router.bind(stop=".").batch([one]) == await router.abatch([one], stop=".")
    assert [expected] == list(router.stream(one, stop=".")) == [chunk async for chunk in router.astream(one, stop=".")]


def test_branches_of_a_router_run_side_by_side_as_far_as_max_concurrency_allows() -> None:
    """Two branches meet at a barrier; with a limit of one they never do."""
    patient, hasty = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=0.2)

    LabelRouter(routes={"a": lambda _: patient.wait(), "b": lambda _: patient.wait()}).batch(results("a", "b"))
    with pytest.raises(threading.BrokenBarrierError):
        LabelRouter(routes={"a": lambda _: hasty.wait(), "b": lambda _: hasty.wait()}).batch(
            results("a", "b"), {"max_concurrency": 1}
        )


async def test_the_router_streams_its_branch() -> None:
    """A model's chunks arrive one by one, also behind a fan-out."""
    model = RunnableLambda(lambda _: "?") | FakeListChatModel(responses=["abc"])
    (one,) = results("a")
    chain = FanOut(result=RunnablePassthrough(), size=lambda r: 1) | LabelRouter(routes={"a": model})

    for chunks in (
        list(LabelRouter(routes={"a": model}).stream(one)),
        list(chain.stream(one)),
        [chunk async for chunk in chain.astream(one)],
    ):
        assert [chunk.content for chunk in chunks][:3] == ["a", "b", "c"]


def test_a_router_shows_its_branches() -> None:
    """Graph, schema and configurable fields are those of the branches."""
    parser: Any = LabelOutputParser(labels=["a"])
    router = LabelRouter(routes={"a": parser, "b": parser.configurable_fields(labels=ConfigurableField(id="labels"))})
    mixed = LabelRouter(routes={"a": parser}, default=RunnableLambda(len, name="size"))
    edges = mixed.get_graph().edges

    assert {"a", "default"} == {edge.data for edge in edges if edge.conditional}
    assert {"size", "LabelOutputParser"} <= {node.name for node in mixed.get_graph().nodes.values()}
    assert [spec.id for spec in router.config_specs] == ["labels"]
    assert router.get_output_jsonschema()["title"] == "Classification"
    assert mixed.OutputType != router.OutputType == Classification
    picked = router | RunnablePassthrough.assign(more=len)
    assert "anyOf" in router.get_input_jsonschema()
    assert picked.get_output_jsonschema()


def test_a_router_checks_its_routes_against_the_labels() -> None:
    """A mistyped route would never be taken; a label without a route needs a default."""
    with pytest.raises(ConfigError, match="did you mean 'refund'"):
        LabelRouter(routes={"refnd": len}, default=len, labels=["refund", "card"])
    with pytest.raises(ConfigError, match="none for card"):
        LabelRouter(routes={"refund": len}, labels=["refund", "card"])
    assert LabelRouter(routes={"refund": len}, default=len, labels=["refund", "card"]).routes.keys() == {"refund"}


def test_a_router_without_any_branch_is_refused() -> None:
    """It could never answer."""
    with pytest.raises(ConfigError):
        LabelRouter(routes={})
