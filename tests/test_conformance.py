"""Every public Runnable and parser against LangChain's contract. A new one joins by one line in `CASES`."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps, loads
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from lc_finetune import (
    Cascade,
    Checkpoint,
    Classification,
    EntitiesOutputParser,
    EntityTagger,
    FanOut,
    IntentAndEntityTagger,
    LabelOutputParser,
    LabelRouter,
    LCFinetuneError,
    MultiLabelClassifier,
    OrdinalClassifier,
    PairClassifier,
    QuestionAnswerer,
    RelationClassifier,
    TextClassifier,
    TextGenerator,
    TextRegressor,
)
from lc_finetune.checkpoint import Task
from lc_finetune.inference.export import export
from lc_finetune.schemas import Result
from lc_finetune.testing import tiny_checkpoint
from tests.tiny_generators import tiny_generator


@dataclass(frozen=True)
class Case:
    """How to build one, what it takes, and what it must refuse."""

    name: str
    build: Callable[[Checkpoint, Checkpoint], Runnable[Any, Any]]
    good: Any
    bad: Any
    run_type: str = "chain"
    serializable: bool = True


@cache
def _made(folder: Path, task: Task) -> str:
    """A checkpoint for another task, beside the folder."""
    return str(tiny_checkpoint(folder.with_name(f"conformance-{task}"), task=task).path)


@cache
def _on_openvino(folder: Path) -> str:
    """A copy with the export."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-openvino"))
    return str(export(copy, format="openvino").folder.parent)


@cache
def _writer(folder: Path) -> str:
    """A plain encoder-decoder, beside the folder."""
    return str(tiny_generator(folder.with_name("conformance-writer"), spread=0.5))


def _router(*_: Any) -> LabelRouter:
    return LabelRouter(routes={"card": RunnableLambda(lambda result: result.label)})


CASES = [
    Case("classifier", lambda c, _: TextClassifier(checkpoint=str(c.path), device="cpu"), "my card", 3),
    Case("tagger", lambda _, t: EntityTagger(checkpoint=str(t.path), device="cpu"), "Ann in Oslo", None),
    Case("multi-label",
         lambda c, _: MultiLabelClassifier(checkpoint=_made(c.path, "multi-label-classification"), device="cpu"),
         "my card", 3),
    Case("relations",
         lambda c, _: RelationClassifier(checkpoint=_made(c.path, "relation-classification"), device="cpu"),
         {"text": "Ann in Oslo", "head": (0, 3), "tail": (7, 11)}, "Ann in Oslo"),
    Case("pair", lambda c, _: PairClassifier(checkpoint=_made(c.path, "text-pair-classification"), device="cpu"),
         {"text": "my card", "text_pair": "is lost"}, "my card"),
    Case("questions", lambda c, _: QuestionAnswerer(checkpoint=_made(c.path, "question-answering"), device="cpu"),
         {"question": "where is it", "context": "my card is in Oslo"}, "my card"),
    Case("intents", lambda c, _: IntentAndEntityTagger(checkpoint=_made(c.path, "intent-and-entities"), device="cpu"),
         "my card in Oslo", 3),
    Case("ordinal", lambda c, _: OrdinalClassifier(checkpoint=_made(c.path, "ordinal-classification"), device="cpu"),
         "my card", 3),
    Case("regressor", lambda c, _: TextRegressor(checkpoint=_made(c.path, "regression"), device="cpu"), "my card", 3),
    Case("generator", lambda c, _: TextGenerator(checkpoint=_writer(c.path), device="cpu", max_new_tokens=6),
         "my card", 3),
    Case("openvino", lambda c, _: TextClassifier(checkpoint=_on_openvino(c.path), device="cpu", backend="openvino"),
         "my card", 3),
    Case("router", _router, Classification(text="x", label="card"), Classification(text="x", label="cash"),
         serializable=False),
    Case("fan-out", lambda *_: FanOut(parsed=LabelOutputParser(labels=("a", "b"))), "a", "c"),
    Case("assign", lambda *_: FanOut.assign(size=RunnableLambda(len)), {"text": "x"}, 3, serializable=False),
    Case("cascade", lambda *_: Cascade(small=LabelOutputParser(labels=("a", "b")), threshold=0.5,
                                       large=LabelOutputParser(labels=("a", "b"))),
         {"text": "x", "answer": "a"}, {"text": "x", "answer": "c"}),
    Case("label parser", lambda *_: LabelOutputParser(labels=("a", "b")), "a", "c", "parser"),
    Case("entities parser", lambda *_: EntitiesOutputParser(labels=("A",)), {"text": "x", "answer": "[]"}, "[]",
         "parser"),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def runnable(case: Case, tiny_classifier: Checkpoint, tiny_tagger: Checkpoint) -> Runnable[Any, Any]:
    return case.build(tiny_classifier, tiny_tagger)


class Recorder(BaseCallbackHandler):
    """Counts runs: what started, ended and failed at the top."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended = self.failed = 0
        self._top: set[Any] = set()

    def on_chain_start(
        self, serialized: Any, inputs: Any, *, run_id: Any, parent_run_id: Any = None, **kw: Any
    ) -> None:
        if parent_run_id is None:
            self._top.add(run_id)
            self.started.append(kw.get("run_type") or "chain")

    def on_chain_end(self, outputs: Any, *, run_id: Any, **_: Any) -> None:
        self.ended += run_id in self._top

    def on_chain_error(self, error: BaseException, *, run_id: Any, **_: Any) -> None:
        self.failed += run_id in self._top


def same(left: Any, right: Any) -> bool:
    """Equal, scores to 1e-5: a text's logits may differ that much by the batch it shares."""
    if not isinstance(left, Result):
        return bool(left == right)
    return left.model_dump() == Approximately(right.model_dump())


class Approximately:
    """Compares nested dicts and lists; floats to 1e-5."""

    def __init__(self, expected: Any) -> None:
        self.expected = expected

    def __eq__(self, found: object) -> bool:
        match self.expected, found:
            case float(), float():
                return abs(self.expected - found) < 1e-5
            case dict(), dict():
                return self.expected.keys() == found.keys() and all(
                    Approximately(v) == found[k] for k, v in self.expected.items()
                )
            case ((list() | tuple()), (list() | tuple())):
                return len(self.expected) == len(found) and all(
                    map(lambda e, f: Approximately(e) == f, self.expected, found)
                )
        return bool(self.expected == found)


async def test_every_way_to_call_gives_the_same(case: Case, runnable: Runnable[Any, Any]) -> None:
    """invoke, ainvoke, batch and abatch agree, in order."""
    expected = runnable.invoke(case.good)

    ways = [
        [await runnable.ainvoke(case.good)],
        runnable.batch([case.good] * 3),
        await runnable.abatch([case.good] * 3),
    ]
    assert [len(answers) for answers in ways] == [1, 3, 3]
    assert all(same(expected, answer) for answers in ways for answer in answers)
    assert runnable.batch([]) == await runnable.abatch([]) == []


async def test_streams_add_up_to_the_answer(case: Case, runnable: Runnable[Any, Any]) -> None:
    """A generator of one input is that input; what is streamed adds up to what is answered."""
    expected = runnable.invoke(case.good)

    async def one() -> Any:
        yield case.good

    for chunks in (
        list(runnable.stream(case.good)),
        [chunk async for chunk in runnable.astream(case.good)],
        list(runnable.transform(value for value in [case.good])),
        [chunk async for chunk in runnable.atransform(one())],
    ):
        total = chunks[0]
        for chunk in chunks[1:]:
            total = total + chunk
        assert same(expected, total)


async def test_langchains_wrappers_give_the_same(case: Case, runnable: Runnable[Any, Any]) -> None:
    """Retried, with fallbacks, mapped, bound, typed, chosen by configuration, or as they complete."""
    expected = runnable.invoke(case.good)
    chosen = RunnablePassthrough().configurable_alternatives(ConfigurableField(id="which"), ours=runnable)
    wrapped = [
        runnable.with_retry(stop_after_attempt=2),
        RunnableLambda(lambda _: 1 / 0).with_fallbacks([runnable]),
        runnable.with_fallbacks([RunnableLambda(lambda _: None)]),
        runnable.bind(),
        runnable.with_types(input_type=str),
        runnable.with_config(tags=["t"]),
        chosen.with_config(configurable={"which": "ours"}),
        copy.copy(runnable),
        copy.deepcopy(runnable),
    ]

    assert all(same(expected, one.invoke(case.good)) for one in wrapped)
    assert all(same(expected, answer) for one in wrapped for answer in one.batch([case.good] * 2))
    assert all([same(expected, await one.ainvoke(case.good)) for one in wrapped])
    assert all(same(expected, answer) for answer in runnable.map().invoke([case.good] * 2))
    completed = dict(runnable.batch_as_completed([case.good, case.bad], return_exceptions=True))
    assert same(expected, completed[0])
    assert isinstance(completed[1], LCFinetuneError)
    finished = {i: one async for i, one in runnable.abatch_as_completed([case.good] * 2)}
    assert all(same(expected, one) for one in finished.values())


async def test_a_batch_stays_whole_through_wrappers(case: Case, runnable: Runnable[Any, Any]) -> None:
    """`|`, `with_retry`, `with_fallbacks`, `bind`, `with_config` and `map` hand over the batch in one call."""
    sizes: list[int] = []

    class Seen(type(runnable)):  # type: ignore[misc]
        def batch(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            sizes.append(len(inputs))
            return super().batch(inputs, *args, **kwargs)

    seen = Seen.model_construct(**runnable.__dict__)
    for one in (
        seen | RunnableLambda(lambda value: value),
        seen.with_retry(),
        seen.with_fallbacks([runnable]),
        seen.bind(),
        seen.with_config(max_concurrency=1),
    ):
        one.batch([case.good] * 3)
    seen.map().invoke([case.good] * 3)

    assert sizes == [3] * 6


async def test_a_bad_item_fails_alone(case: Case, runnable: Runnable[Any, Any]) -> None:
    """With `return_exceptions` in its own slot; without, it is raised."""
    for outcomes in (
        runnable.batch([case.good, case.bad, case.good], return_exceptions=True),
        await runnable.abatch([case.good, case.bad, case.good], return_exceptions=True),
    ):
        assert [isinstance(outcome, LCFinetuneError) for outcome in outcomes] == [False, True, False]
    with pytest.raises(LCFinetuneError):
        runnable.batch([case.good, case.bad])
    with pytest.raises(LCFinetuneError):
        await runnable.ainvoke(case.bad)


async def test_each_item_is_one_run(case: Case, runnable: Runnable[Any, Any]) -> None:
    """Callbacks see one run an item, of the right type, ended or failed."""
    recorder = Recorder()
    runnable.batch([case.good, case.bad], {"callbacks": [recorder]}, return_exceptions=True)
    await runnable.ainvoke(case.good, {"callbacks": [recorder]})

    assert [case.run_type] * 3 == recorder.started
    assert (recorder.ended, recorder.failed) == (2, 1)


async def test_a_run_carries_what_its_config_says(case: Case, runnable: Runnable[Any, Any]) -> None:
    """Name, tags, metadata and id, each item its own."""
    collector, ids = RunCollectorCallbackHandler(), [uuid4(), uuid4()]
    configs: list[Any] = [
        {"callbacks": [collector], "run_name": f"n{i}", "tags": [f"t{i}"], "metadata": {"m": i}, "run_id": one}
        for i, one in enumerate(ids)
    ]
    runnable.batch([case.good] * 2, configs)
    await runnable.abatch([case.good], [{**configs[0], "run_id": None}])

    runs = collector.traced_runs
    assert ids == [run.id for run in runs[:2]]
    assert ["n0", "n1", "n0"] == [run.name for run in runs]  # noqa: SIM300
    assert [(run.tags, run.metadata["m"]) for run in runs] == [(["t0"], 0), (["t1"], 1), (["t0"], 0)]


async def test_events_and_logs_are_streamed(case: Case, runnable: Runnable[Any, Any]) -> None:
    """`astream_events` begins and ends with the run; `astream_log` ends with its answer."""
    expected = runnable.invoke(case.good)
    events = [event async for event in runnable.astream_events(case.good, version="v2")]
    log: Any = None
    async for patch in runnable.astream_log(case.good):
        log = patch if log is None else log + patch

    assert {"start", "end"} == {events[i]["event"].rpartition("_")[2] for i in (0, -1)}
    assert same(expected, log.state["final_output"])


def test_configs_may_be_a_list(case: Case, runnable: Runnable[Any, Any]) -> None:
    """One for each input; another number is a ValueError."""
    assert len(runnable.batch([case.good] * 2, [{"tags": ["a"]}, {"tags": ["b"]}])) == 2
    with pytest.raises(ValueError, match="config"):
        runnable.batch([case.good] * 2, [{}])


def test_schemas_are_json_schemas(case: Case, runnable: Runnable[Any, Any]) -> None:
    """In and out, also when composed."""
    for one in (runnable, runnable | RunnableLambda(lambda value: value), RunnableLambda(lambda v: v) | runnable):
        json.dumps([one.get_input_jsonschema(), one.get_output_jsonschema()])
    assert {"a"} == set(RunnableParallel(a=runnable).get_output_jsonschema()["properties"])
    chained = RunnablePassthrough() | runnable
    expected = runnable.get_output_jsonschema()
    assert {**expected, "title": ""} == {**chained.get_output_jsonschema(), "title": ""}


def test_with_config_and_graph(case: Case, runnable: Runnable[Any, Any]) -> None:
    """A configured copy answers the same; the graph can be drawn."""
    assert same(runnable.invoke(case.good), runnable.with_config(run_name="named", tags=["t"]).invoke(case.good))
    assert runnable.get_graph().nodes


@pytest.mark.filterwarnings("ignore:The function `loads` is in beta")
def test_serialization(case: Case, runnable: Runnable[Any, Any]) -> None:
    """`dumps` and `loads` give one that answers the same."""
    if case.serializable:
        kinds = [type(runnable), LabelOutputParser]
        twin = loads(dumps(runnable), allowed_objects=kinds, valid_namespaces=["lc_finetune"])
        assert runnable == twin
        assert same(runnable.invoke(case.good), twin.invoke(case.good))
