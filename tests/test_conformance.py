"""Every public Runnable and parser against LangChain's contract. A new one joins by one line in `CASES`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps, loads
from langchain_core.runnables import Runnable, RunnableLambda

from lc_finetune import (
    Checkpoint,
    Classification,
    EntitiesOutputParser,
    EntityTagger,
    LabelOutputParser,
    LabelRouter,
    LCFinetuneError,
    TextClassifier,
)
from lc_finetune.inference.export import export
from lc_finetune.schemas import Result


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
def _on_openvino(folder: Path) -> str:
    """A copy with the export."""
    copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-openvino"))
    return str(export(copy, format="openvino").folder.parent)


def _router(*_: Any) -> LabelRouter:
    return LabelRouter(routes={"card": RunnableLambda(lambda result: result.label)})


CASES = [
    Case("classifier", lambda c, _: TextClassifier(checkpoint=str(c.path), device="cpu"), "my card", 3),
    Case("tagger", lambda _, t: EntityTagger(checkpoint=str(t.path), device="cpu"), "Ann in Oslo", None),
    Case("openvino", lambda c, _: TextClassifier(checkpoint=_on_openvino(c.path), device="cpu", backend="openvino"),
         "my card", 3),
    Case("router", _router, Classification(text="x", label="card"), Classification(text="x", label="cash"),
         serializable=False),
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
    """invoke, ainvoke, batch, abatch, stream and transform agree, in order."""
    expected = runnable.invoke(case.good)

    ways = [
        [await runnable.ainvoke(case.good)],
        runnable.batch([case.good] * 3),
        await runnable.abatch([case.good] * 3),
        list(runnable.stream(case.good)),
        [one async for one in runnable.astream(case.good)],
    ]
    assert [len(answers) for answers in ways] == [1, 3, 3, 1, 1]
    assert all(same(expected, answer) for answers in ways for answer in answers)
    assert runnable.batch([]) == []


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


def test_configs_may_be_a_list(case: Case, runnable: Runnable[Any, Any]) -> None:
    """One for each input; another number is a ValueError."""
    assert len(runnable.batch([case.good] * 2, [{"tags": ["a"]}, {"tags": ["b"]}])) == 2
    with pytest.raises(ValueError, match="config"):
        runnable.batch([case.good] * 2, [{}])


def test_schemas_are_json_schemas(case: Case, runnable: Runnable[Any, Any]) -> None:
    """In and out, also when composed."""
    for one in (runnable, runnable | RunnableLambda(lambda value: value), RunnableLambda(lambda v: v) | runnable):
        json.dumps([one.get_input_jsonschema(), one.get_output_jsonschema()])


def test_with_config_and_graph(case: Case, runnable: Runnable[Any, Any]) -> None:
    """A configured copy answers the same; the graph can be drawn."""
    assert same(runnable.invoke(case.good), runnable.with_config(run_name="named", tags=["t"]).invoke(case.good))
    assert runnable.get_graph().nodes


def test_serialization(case: Case, runnable: Runnable[Any, Any]) -> None:
    """`dumps` and `loads` give one that answers the same."""
    if case.serializable:
        kind = type(runnable)
        copy = loads(dumps(runnable), allowed_objects=[kind], valid_namespaces=["lc_finetune"])
        assert same(runnable.invoke(case.good), copy.invoke(case.good))
