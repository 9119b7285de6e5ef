"""Classifier, tagger and router beyond the common contract."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
)
from langchain_tests.unit_tests import ToolsUnitTests

from lc_finetune import (
    Checkpoint,
    CheckpointError,
    Classification,
    ConfigError,
    EntityTagger,
    InputError,
    LabelRouter,
    TextClassifier,
)
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
        Document(page_content="my card"),
        ChatPromptTemplate.from_template("my {x}").invoke({"x": "card"}),
    ],
)
def test_a_text_is_read_from_whatever_holds_it(classifier: TextClassifier, value: Any) -> None:
    """Strings, mappings, messages, states, documents, prompts."""
    assert classifier.invoke(value).text == "my card"


@pytest.mark.parametrize(
    "value", [3, None, b"x", {"other": "x"}, {"text": 3}, [AIMessage("hi")], [], HumanMessage([{"type": "image"}])]
)
def test_anything_else_is_refused_without_quoting_it(classifier: TextClassifier, value: Any) -> None:
    """The message says what was expected and which type was found."""
    with pytest.raises(InputError, match="Expected"):
        classifier.invoke(value)


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


class TestClassifierTool(ToolsUnitTests):
    """LangChain's own suite on our tool."""

    @property
    def tool_constructor(self) -> Any:
        return TextClassifier(checkpoint="nowhere").as_tool(name="intent", description="Tells the intent.")

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"text": "my card"}


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


def test_a_router_without_any_branch_is_refused() -> None:
    """It could never answer."""
    with pytest.raises(ConfigError):
        LabelRouter(routes={})
