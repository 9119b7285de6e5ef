"""Fan-out: as LangChain's own, but each branch is called once per batch."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import (
    ConfigurableField,
    Runnable,
    RunnableBranch,
    RunnableConfig,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnablePick,
    RunnableSequence,
)
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from lc_finetune import (
    Checkpoint,
    Classification,
    ConfigError,
    EntityTagger,
    FanOut,
    InputError,
    LabelOutputParser,
    LabelRouter,
    TextClassifier,
)
from lc_finetune.composition import Fields
from lc_finetune.runnables import FanOutAssign


class Counting(Runnable[Any, Any]):
    """Applies a function; records how many items each call had, and its keyword arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.calls: list[int] = []
        self.given: list[dict[str, Any]] = []

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        (answer,) = self.batch([input], config, **kwargs)
        return answer

    def batch(self, inputs: list[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any) -> Any:
        self.calls.append(len(inputs))
        self.given.append(kwargs)
        return self._batch_with_config(self._many, inputs, config, return_exceptions=return_exceptions)

    async def abatch(
        self, inputs: list[Any], config: Any = None, *, return_exceptions: bool = False, **kwargs: Any
    ) -> Any:
        return self.batch(inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _many(self, values: list[Any]) -> list[Any]:
        answers: list[Any] = []
        for value in values:
            try:
                answers.append(self.function(value))
            except Exception as error:
                answers.append(error)
        return answers


async def each_way(runnable: Runnable[Any, Any], inputs: list[Any], **options: Any) -> Any:
    """What `batch` and `abatch` answer, which must be the same."""
    answers = runnable.batch(inputs, **options)
    awaited = await runnable.abatch(inputs, **options)

    assert list(map(repr, answers)) == list(map(repr, awaited))
    return answers


async def test_each_branch_is_called_once_per_batch() -> None:
    """Synchronous and awaited; the rows come back in order."""
    double, square = Counting(lambda n: 2 * n), Counting(lambda n: n * n)
    rows = await each_way(FanOut(double=double, square=square), [1, 2, 3])

    assert rows == [{"double": 2, "square": 1}, {"double": 4, "square": 4}, {"double": 6, "square": 9}]
    assert [3, 3] == double.calls == square.calls


same: Runnable[Any, Any] = RunnableLambda(lambda value: value)


@pytest.mark.parametrize(
    ("around", "calls"),
    [
        (lambda clf: same | clf | same, [8]),
        (lambda clf: clf.with_retry(), [8]),
        (lambda clf: clf.with_fallbacks([same]), [8]),
        (lambda clf: clf.bind(), [8]),
        (lambda clf: clf.with_config(tags=["t"]), [8]),
        (lambda clf: FanOut(a=clf, b=same), [8]),
        (lambda clf: FanOut.assign(a=clf), [8]),
        (lambda clf: LabelRouter(routes={"a": clf}), [8]),
        (lambda clf: RunnableLambda(lambda value: [value] * 3) | clf.map(), [3] * 8),
        (lambda clf: RunnableParallel(a=clf, b=same), [1] * 8),
        (lambda clf: same | {"a": clf}, [1] * 8),
        (lambda clf: RunnableLambda(dict) | RunnablePassthrough.assign(a=clf), [1] * 8),
        (lambda clf: RunnableBranch((lambda _: True, clf), same), [1] * 8),
        (lambda clf: RunnableLambda(lambda _: clf), [1] * 8),
    ],
)
async def test_how_many_calls_a_construct_makes(around: Callable[[Any], Any], calls: list[int]) -> None:
    """The table in docs/langchain.md, for a batch of 8."""
    counting = Counting(lambda value: value)
    results = [Classification(text=str(i), label="a") for i in range(8)]
    chain = around(counting)
    chain.batch(results)
    await chain.abatch(results)

    assert calls * 2 == counting.calls


async def test_batches_stay_whole_through_a_sequence() -> None:
    """Before, within and after a fan-out, nested and assigned: one call a step."""
    first = Counting(lambda text: Classification(text=text, label="a" if len(text) == 1 else "b"))
    length, inner, added, routed = (Counting(f) for f in (lambda r: len(r.text), repr, lambda d: d["length"], len))
    chain = (
        first
        | FanOut(result=RunnablePassthrough(), length=length, nested={"inner": inner})
        | FanOut.assign(added=added)
        | LabelRouter(routes={"a": routed, "b": routed})
    )

    assert await each_way(chain, ["x", "yy", "z"]) == [4, 4, 4]
    assert [one.calls for one in (first, length, inner, added, routed)] == [[3, 3]] * 5


async def test_the_answers_are_those_of_langchain() -> None:
    """Called in any way, `FanOut` gives what `RunnableParallel` and `RunnablePassthrough.assign` give."""
    branches: dict[str, Any] = {"twice": lambda n: {"n": 2 * n["n"]}, "same": RunnablePassthrough()}
    for ours, theirs in (
        (FanOut(branches), RunnableParallel(branches)),
        (FanOut.assign(**branches), RunnablePassthrough.assign(**branches)),
    ):
        expected = theirs.invoke({"n": 1})

        assert expected == ours.invoke({"n": 1}) == await ours.ainvoke({"n": 1})
        assert theirs.batch([{"n": 1}, {"n": 2}]) == await each_way(ours, [{"n": 1}, {"n": 2}])
        assert sorted(map(repr, theirs.stream({"n": 1}))) == sorted(map(repr, ours.stream({"n": 1})))
        assert sorted(map(repr, theirs.stream({"n": 1}))) == sorted([repr(c) async for c in ours.astream({"n": 1})])
        assert ours.batch([]) == await ours.abatch([]) == []


async def test_a_failing_cell_fails_its_row_alone() -> None:
    """With `return_exceptions`; without, it is raised. A branch that fails as a whole fails every row."""
    fan_out = FanOut(inverse=lambda n: 1 / n, same=lambda n: n)

    good, bad = await each_way(fan_out, [1, 0], return_exceptions=True)
    assert good == {"inverse": 1.0, "same": 1}
    assert isinstance(bad, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        fan_out.batch([1, 0])
    with pytest.raises(ZeroDivisionError):
        await fan_out.abatch([1, 0])
    with pytest.raises(ZeroDivisionError):
        fan_out.invoke(0)


async def test_assign_keeps_the_fields_of_a_mapping_or_a_result() -> None:
    """Anything else is an error in its own slot."""
    size = Counting(lambda fields: len(fields["text"]))
    assign = FanOut.assign(size=size)
    result = Classification(text="ab", label="x")
    mapped, bad, taken = await each_way(assign, [{"text": "a"}, 3, result], return_exceptions=True)

    assert mapped == {"text": "a", "size": 1}
    assert isinstance(bad, InputError)
    assert (taken["label"], taken["size"]) == ("x", 2)
    assert taken == assign.invoke(result) == await assign.ainvoke(result)
    assert size.calls == [2, 2, 1, 1]
    assert next(iter(assign.stream(result)))["label"] == "x"
    with pytest.raises(InputError, match="found int"):
        assign.invoke(3)


def test_assign_to_a_fan_out_goes_on_with_its_answers() -> None:
    """The method of an instance keeps the branches."""
    assert FanOut(n=lambda n: n).assign(next=lambda row: row["n"] + 1).batch([1, 5]) == [
        {"n": 1, "next": 2},
        {"n": 5, "next": 6},
    ]


async def test_keyword_arguments_reach_every_branch() -> None:
    """In every way of calling."""
    branch = Counting(lambda value: value)
    fan_out = FanOut(one=branch, other=RunnableLambda(lambda value, **kwargs: kwargs))
    expected = {"one": 1, "other": {"stop": "."}}

    assert [expected] == await each_way(fan_out.bind(stop="."), [1])
    assert expected == fan_out.invoke(1, stop=".") == await fan_out.ainvoke(1, stop=".")
    assert {"other": {"stop": "."}} in list(fan_out.stream(1, stop="."))
    assert {"other": {"stop": "."}} in [chunk async for chunk in fan_out.astream(1, stop=".")]
    assert all(given == {"stop": "."} for given in branch.given)


def test_branches_run_side_by_side_as_far_as_max_concurrency_allows() -> None:
    """Two branches meet at a barrier; with a limit of one they never do."""
    patient, hasty = threading.Barrier(2, timeout=60), threading.Barrier(2, timeout=0.2)

    FanOut(a=lambda _: patient.wait(), b=lambda _: patient.wait()).batch([1])
    with pytest.raises(threading.BrokenBarrierError):
        FanOut(a=lambda _: hasty.wait(), b=lambda _: hasty.wait()).batch([1], {"max_concurrency": 1})


@pytest.mark.parametrize("way", ["batch", "abatch"])
async def test_each_item_is_one_run_with_a_child_for_each_branch(way: str) -> None:
    """Traces look as LangChain's: the children carry `map:key:NAME`; names, tags and errors are the item's own."""
    fan_out = FanOut(a=lambda n: n, b=lambda n: 1 / n)
    collector = RunCollectorCallbackHandler()
    configs: list[RunnableConfig] = [
        {"callbacks": [collector], "run_name": "first", "tags": ["x"]},
        {"callbacks": [collector]},
    ]
    if way == "batch":
        fan_out.batch([1, 0], configs, return_exceptions=True)
    else:
        await fan_out.abatch([1, 0], configs, return_exceptions=True)

    first, second = sorted(collector.traced_runs, key=lambda run: run.name != "first")
    assert [second.name, first.tags] == ["FanOut<a,b>", ["x"]]
    assert (first.error, "ZeroDivisionError" in (second.error or "")) == (None, True)
    for run in (first, second):
        tags = sorted(tag for child in run.child_runs for tag in child.tags or [] if tag.startswith("map"))
        assert tags == ["map:key:a", "map:key:b"]


def test_config_lists_must_fit() -> None:
    """As everywhere in LangChain."""
    with pytest.raises(ValueError, match="config"):
        FanOut(a=lambda n: n).batch([1, 2], [{}])


def test_schemas_are_those_of_the_branches(tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
    """In: what suits all of them. Out: each one's under its name; `assign` adds to what it gets. Also when composed."""
    classifier = TextClassifier(checkpoint=str(tiny_classifier.path))
    both = FanOut(classification=classifier, tagging=EntityTagger(checkpoint=str(tiny_tagger.path)))
    prompt = ChatPromptTemplate.from_template("{x}")

    assert both.get_input_jsonschema()["type"] == "string"
    assert both.get_output_jsonschema()["properties"]["tagging"] == {"$ref": "#/$defs/Tagging"}
    assert both.pick("classification").get_output_jsonschema()["title"] == "RunnableSequenceOutput"
    nested = FanOut(both=both, label=classifier.pick("label")).get_output_jsonschema()
    assert nested["properties"]["label"]["type"] == "string"
    assert {"Classification", "Tagging"} <= set(nested["$defs"])
    assert list(FanOut(a=prompt, b=lambda x: x).get_input_jsonschema()["properties"]) == ["x"]
    assert "type" not in FanOut(a=prompt, b=classifier).get_input_jsonschema()
    assert "properties" not in FanOut(a=lambda x: x).get_input_jsonschema()
    added = both | FanOut.assign(size=len) | RunnablePick(["tagging", "size"])
    assert {"tagging", "size"} == set(added.get_output_jsonschema()["properties"])
    known = classifier | FanOut.assign(size=len)
    assert {"label", "score", "size"} <= set(known.get_output_jsonschema()["properties"])


def test_the_graph_has_every_branch() -> None:
    """From one input to one output; `assign` draws what it passes through."""
    graph = FanOut(a=RunnableLambda(len, name="alpha"), b=RunnableLambda(len, name="beta")).get_graph()
    assigned = FanOut.assign(a=RunnableLambda(len, name="alpha")).get_graph()

    assert {"alpha", "beta"} <= {node.name for node in graph.nodes.values()}
    assert len(graph.edges) == 4
    assert {"alpha", "Passthrough"} <= {node.name for node in assigned.nodes.values()}


def test_branches_can_be_configured() -> None:
    """Their fields are the fan-out's too."""
    parser: Any = LabelOutputParser(labels=["a"]).configurable_fields(labels=ConfigurableField(id="labels"))
    fan_out = FanOut(one=parser, two=lambda text: text)

    assert (
        ["labels"] == [spec.id for spec in fan_out.config_specs] == [s.id for s in FanOut.assign(x=parser).config_specs]
    )
    assert fan_out.batch(["b"], {"configurable": {"labels": ["b"]}})[0]["one"].label == "b"


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_a_fan_out_survives_serialization() -> None:
    """`dumps` and `loads` give an equal one, alone and composed."""
    parser = LabelOutputParser(labels=["a", "b"])
    classes = [FanOut, FanOutAssign, LabelOutputParser, RunnableSequence, RunnablePick, Fields]
    for one in (
        FanOut(whole=parser, label=parser.pick("label"), nested={"again": parser}),
        FanOut.assign(answer=parser),
        parser | FanOut.assign(answer=parser),
    ):
        twin = loads(dumps(one), allowed_objects=classes, valid_namespaces=["lc_finetune"])

        assert type(one) is type(twin)
        assert one == twin


def test_models_stream_through_a_fan_out() -> None:
    """Each chunk comes under the name of its branch, while the others still work."""
    chunks = list(FanOut(llm=FakeListChatModel(responses=["abc"]), size=len).stream("four"))

    assert [c["llm"].content for c in chunks if "llm" in c][:3] == ["a", "b", "c"]
    assert {"size": 4} in chunks


def test_a_fan_out_without_branches_is_refused() -> None:
    """It could never answer."""
    with pytest.raises(ConfigError):
        FanOut()
    with pytest.raises(ConfigError):
        FanOut.assign()


async def test_a_model_runs_full_batches_in_a_fan_out(tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> None:
    """With real models: what they answer alone, and one run of each for each text."""

    class Runs(BaseCallbackHandler):
        def __init__(self) -> None:
            self.names: list[str] = []

        def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
            self.names.append(kwargs["name"])

    classifier = TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu")
    tagger = EntityTagger(checkpoint=str(tiny_tagger.path), device="cpu")
    texts, runs = [f"text {i}" for i in range(20)], Runs()
    rows = FanOut(classification=classifier, tagging=tagger).batch(texts, {"callbacks": [runs]})

    assert [result.label for result in classifier.batch(texts)] == [row["classification"].label for row in rows]
    assert texts == [row["tagging"].text for row in rows]
    assert {name: runs.names.count(name) for name in runs.names} == {
        "FanOut<classification,tagging>": 20,
        "TextClassifier": 20,
        "EntityTagger": 20,
    }
