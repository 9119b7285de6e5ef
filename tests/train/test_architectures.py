"""Every family of encoders on every task, and decoders on those of whole texts: from a file to both backends."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lc_finetune import (
    Checkpoint,
    EntityTagger,
    IntentAndEntityTagger,
    MultiLabelClassifier,
    OrdinalClassifier,
    PairClassifier,
    QuestionAnswerer,
    RelationClassifier,
    TextClassifier,
    TextRegressor,
)
from lc_finetune.checkpoint import WEIGHTS, Task
from lc_finetune.data import ReadOptions, read_examples
from lc_finetune.inference import Predictor
from lc_finetune.inference import export as exporting
from lc_finetune.inference.encode import Encoder, Encoding, padding_id
from lc_finetune.inference.export import NotExportable
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.markers import mark
from lc_finetune.schemas import QuestionAnswer
from lc_finetune.testing import DECODERS, ENCODERS, Architecture, tiny_base_model
from lc_finetune.train import TrainConfig, fine_tune

NAMES = ("Ann", "Zoë", "Jose\u0301", "O'Neil", "李明", "Ann-Marie", "👩🏽\u200d🚀 Mia", "𠮷野")
CITIES = ("Oslo", "São  Paulo", "Köln", "北京", "Rome", "Nu\u0301ria")
FILLERS = ("flew to", "is in 😀", "(near)\t", "met\r\nus at", "住在", "→")
ROWS = 48


def places() -> list[tuple[str, tuple[int, int], tuple[int, int]]]:
    """Texts with a person and a city, and where both stand."""
    rows = []
    for row in range(ROWS):
        name, city, filler = (kind[row % len(kind)] for kind in (NAMES, CITIES, FILLERS))
        text = f"{'  ' * (row % 2)}{name} {filler} {city}{'.' * (row % 3)}"
        start = text.index(name)
        city_start = text.rindex(city)
        rows.append((text, (start, start + len(name)), (city_start, city_start + len(city))))
    return rows


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return path.with_suffix(".csv")


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")
    return path.with_suffix(".jsonl")


def classes(path: Path) -> Path:
    return write_table(path, [{"text": text, "label": ("a", "b", "c")[i % 3]} for i, (text, *_) in enumerate(places())])


def ranks(path: Path) -> Path:
    return write_table(path, [{"text": text, "label": i % 3} for i, (text, *_) in enumerate(places())])


def several(path: Path) -> Path:
    sets = (["a"], ["b"], ["a", "b"], [])
    return write_lines(path, [{"text": text, "labels": sets[i % 4]} for i, (text, *_) in enumerate(places())])


def numbers(path: Path) -> Path:
    return write_table(path, [{"text": text, "label": i % 5 + 0.5} for i, (text, *_) in enumerate(places())])


def pairs(path: Path) -> Path:
    rows = [{"text": text, "text_pair": text[::-1], "label": ("yes", "no")[i % 2]}
            for i, (text, *_) in enumerate(places())]  # fmt: skip
    return write_table(path, rows)


def entities(path: Path) -> Path:
    rows = []
    for text, *spans in places():
        named = [{"start": start, "end": end, "label": label}
                 for (start, end), label in zip(spans, ("PER", "LOC"), strict=True)]  # fmt: skip
        rows.append({"text": text, "entities": named})
    return write_lines(path, rows)


def intents(path: Path) -> Path:
    rows = [json.loads(line) for line in entities(path).read_text(encoding="utf-8").splitlines()]
    return write_lines(path, [{**row, "label": ("a", "b", "c")[i % 3]} for i, row in enumerate(rows)])


def relations(path: Path) -> Path:
    rows = [{"text": text, "head": head, "tail": tail, "label": ("in", "near")[i % 2]}
            for i, (text, head, tail) in enumerate(places())]  # fmt: skip
    return write_lines(path, rows)


def questions(path: Path) -> Path:
    rows = [
        {"question": "Where?", "context": text, "answers": {"text": [text[slice(*city)]], "answer_start": [city[0]]}}
        for text, _, city in places()
    ]
    return write_lines(path, rows)


@dataclass(frozen=True)
class Case:
    """How a task's file is written, what answers, and what it is asked.

    Attributes:
        ask: Makes what the Runnable is given of a text, where a name stands at the start and a city at the end.
        figures: Gives what must agree: numbers, and what is decided.
    """

    write: Callable[[Path], Path]
    runnable: Any
    ask: Callable[[str], Any]
    figures: Callable[[Any], tuple[list[float], Any]]


def marked(text: str) -> dict[str, Any]:
    """A mention on either side of a text; those of a long one would be too far apart."""
    return {"text": f"Ann {text} Oslo", "head": (0, 3), "tail": (len(text) + 5, len(text) + 9)}


def given(asked: Any) -> Any:
    """What the model reads of what a Runnable is asked."""
    if isinstance(asked, str):
        return asked
    return (asked["text"], asked["text_pair"]) if "text_pair" in asked else mark(**asked)


def scores(result: Any) -> tuple[list[float], Any]:
    return list(result.scores.values()), None


def entities_of(result: Any) -> tuple[list[float], Any]:
    return [e.score for e in result.entities], [(e.label, e.start, e.end) for e in result.entities]


CASES: dict[Task, Case] = {
    "text-classification": Case(classes, TextClassifier, str, scores),
    "ordinal-classification": Case(ranks, OrdinalClassifier, str, scores),
    "multi-label-classification": Case(several, MultiLabelClassifier, str, scores),
    "regression": Case(numbers, TextRegressor, str, lambda r: ([r.value], None)),
    "text-pair-classification": Case(pairs, PairClassifier, lambda t: {"text": t, "text_pair": "in Oslo"}, scores),
    "token-classification": Case(entities, EntityTagger, str, entities_of),
    "intent-and-entities": Case(
        intents, IntentAndEntityTagger, str,
        lambda r: ([*r.scores.values(), *entities_of(r)[0]], entities_of(r)[1])),
    "relation-classification": Case(relations, RelationClassifier, marked, scores),
    "question-answering": Case(
        questions, QuestionAnswerer, lambda t: {"question": "Where?", "context": t},
        lambda r: ([r.score], (r.start, r.end))),
}  # fmt: skip
WHOLE: tuple[Task, ...] = (
    "text-classification", "ordinal-classification", "multi-label-classification", "regression",
)  # fmt: skip
"""Tasks that decoders are for: of a text that is judged as a whole."""
TAGGERS = (EntityTagger, IntentAndEntityTagger)
FAST: set[tuple[Architecture, Task]] = {("roberta", "token-classification"), ("gpt2", "text-classification")}
MADE_OF: list[tuple[Architecture, Task]] = [*product(ENCODERS, CASES), *product(DECODERS, WHOLE)]
TEXTS = [text for text, *_ in places()[:8]] + [
    "Ann",
    "Zoe\u0308 zie\u0301\u0301",
    "😀😀",
    "ＡＢＣ，北京。",
    " x\t\ty\r\n",
]
LONG = "Ann flew to " + "the old town of " * 60


def options(base: Path, rows: Path, output: Path, **more: Any) -> dict[str, Any]:
    return {"base_model": str(base), "train_file": str(rows), "output_dir": str(output), "epochs": 1, "batch_size": 8,
            "learning_rate": 5e-3, "baseline": False, **more}  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[pytest.param(one, id="-".join(one), marks=() if one in FAST else pytest.mark.slow) for one in MADE_OF],
)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Case]:
    """A checkpoint of each family for each task, trained for some steps, with its export."""
    architecture, task = request.param
    folder = tmp_path_factory.mktemp("-".join(request.param))
    base = tiny_base_model(folder / "base", architecture=architecture)
    rows = CASES[task].write(folder / "rows")
    epochs = 10 if CASES[task].runnable in TAGGERS else 1  # until there are entities to look at
    checkpoint = fine_tune(TrainConfig(**options(base, rows, folder / "out", task=task, epochs=epochs)))
    return checkpoint, CASES[task]


def served(checkpoint: Checkpoint, case: Case, backend: str) -> Any:
    return case.runnable.from_checkpoint(checkpoint.path, device="cpu", backend=backend)


def assert_same(one: Sequence[tuple[list[float], Any]], other: Sequence[tuple[list[float], Any]], gap: float) -> None:
    for (numbers_one, decided_one), (numbers_other, decided_other) in zip(one, other, strict=True):
        assert decided_one == decided_other
        assert np.abs(np.array(numbers_one) - np.array(numbers_other)).max(initial=0.0) < gap


def spans_of(result: Any) -> list[tuple[str, str, int, int]]:
    """The text of each span that was found, what it is called, and its offsets."""
    if isinstance(result, QuestionAnswer):
        return [(result.context, result.answer, result.start, result.end)] if result.answer is not None else []
    return [(result.text, e.text, e.start, e.end) for e in getattr(result, "entities", ())]


def test_both_backends_give_the_same_answers(made: tuple[Checkpoint, Case]) -> None:
    """Training left an export that agrees with torch, on long texts too; spans are the text's own, without spaces."""
    checkpoint, case = made
    asked = [case.ask(text) for text in (*TEXTS, "", *([] if case.ask is marked else [LONG + "Zoë 北京"]))]
    results = [served(checkpoint, case, name).batch(asked) for name in ("torch", "onnx")]
    spans = [span for result in results[0] for span in spans_of(result)]

    assert_same(*[[case.figures(result) for result in of_backend] for of_backend in results], gap=1e-3)
    assert bool(spans) == (case.runnable in (*TAGGERS, QuestionAnswerer))
    assert all(text[start:end] == found == found.strip() != "" for text, found, start, end in spans)


def test_an_answer_does_not_depend_on_its_neighbours(made: tuple[Checkpoint, Case]) -> None:
    """Alone and beside longer and shorter ones; an empty text too."""
    checkpoint, case = made
    texts = [*TEXTS, "", *([] if case.ask is marked else [LONG])]
    asked = [case.ask(text) for text in texts]
    for backend in ("torch", "onnx"):
        runnable = served(checkpoint, case, backend)
        together = [case.figures(result) for result in runnable.batch(asked)]
        alone = [case.figures(runnable.invoke(one)) for one in asked]

        assert np.isfinite(np.concatenate([numbers for numbers, _ in together])).all()
        assert_same(together, alone, gap=1e-4)


def test_a_long_text_is_read_to_its_end(made: tuple[Checkpoint, Case]) -> None:
    """In windows: the last word counts, and each piece of it has its logits where pieces are judged."""
    checkpoint, case = made
    predictor = Predictor.load(checkpoint, device="cpu", backend="torch")
    if case.runnable in (EntityTagger, QuestionAnswerer):
        asked: Any = LONG if case.runnable is EntityTagger else ("Where?", LONG)
        encoding = Encoder(checkpoint.path, offsets=False).encode([LONG])[0]
        logits = outputs_of(predictor, [asked]).logits[0]
        assert isinstance(encoding, Encoding)
        assert len(encoding.ids) > predictor.max_length
        assert len(logits) == len(encoding.ids) + predictor.keeps_first
        assert np.isfinite(logits).all()
        return
    asked_both = [case.ask(LONG + last) for last in ("Oslo 北京", "Rome Zoë!")]
    if case.ask is marked:
        around = [f"{LONG}{city}{LONG}" for city in ("Oslo", "Rome")]
        asked_both = [{"text": text, "head": (len(LONG), len(LONG) + 2), "tail": (len(LONG) + 2, len(LONG) + 4)}
                      for text in around]  # fmt: skip
    one, other = outputs_of(predictor, [given(asked) for asked in asked_both]).logits
    assert np.abs(one - other).max() > 1e-5  # scores may be alike: their calibration has steps


def test_the_checkpoint_is_transformers_own(made: tuple[Checkpoint, Case]) -> None:
    """Of safetensors and JSON, with a padding piece that model and tokenizer agree on."""
    checkpoint, _ = made
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)

    assert (checkpoint.path / WEIGHTS).is_file()
    assert tokenizer.pad_token_id == Encoder(checkpoint.path, offsets=False).pad_id
    assert padding_id(checkpoint.path, tokenizer) == tokenizer.pad_token_id


def test_the_rows_are_what_the_tasks_take(tmp_path: Path) -> None:
    """Each file above is read as its task's, without a word about the text in it."""
    for task, case in CASES.items():
        loaded = read_examples(str(case.write(tmp_path / task)), ReadOptions(task=task))
        assert loaded.task == task
        assert len(loaded.examples) == ROWS


# Decoders.


@pytest.fixture(scope="module", params=[DECODERS[0], *(pytest.param(d, marks=pytest.mark.slow) for d in DECODERS[1:])])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A classifier on a decoder; its tokenizer says that padding goes to the left, as for generation."""
    folder = tmp_path_factory.mktemp(request.param)
    base = tiny_base_model(folder / "base", architecture=request.param)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    tokenizer.save_pretrained(base)
    return fine_tune(TrainConfig(**options(base, classes(folder / "rows"), folder / "out", baseline=True)))


def test_a_decoder_s_text_is_judged_by_its_last_piece(decoder: Checkpoint) -> None:
    """As transformers does for the text alone; beside longer ones on both backends too."""
    model = AutoModelForSequenceClassification.from_pretrained(decoder.path).eval()
    model.config.pad_token_id = None  # it takes the last piece then, whatever that is
    tokenizer = AutoTokenizer.from_pretrained(decoder.path)
    texts = ["Ann flew to Oslo", "Zoë", "a !"]
    with torch.inference_mode():
        theirs = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    for backend in ("torch", "onnx"):
        predictor = Predictor.load(decoder, device="cpu", backend=backend)
        assert np.abs(np.stack(theirs) - outputs_of(predictor, texts).logits).max() < 1e-4


def test_the_padding_piece_is_no_piece_of_a_text(decoder: Checkpoint) -> None:
    """Where the tokenizer had none it is what ends a text; the configuration has the same one."""
    tokenizer = AutoTokenizer.from_pretrained(decoder.path)

    assert tokenizer.pad_token in ("</s>", "<pad>")
    assert decoder.config["pad_token_id"] == tokenizer.pad_token_id
    assert tokenizer.pad_token_id not in tokenizer(" ".join(TEXTS))["input_ids"]


@pytest.mark.parametrize(
    "architecture", [DECODERS[0], *(pytest.param(d, marks=pytest.mark.slow) for d in DECODERS[1:])]
)
def test_a_plain_decoder_without_a_padding_piece_answers_batches(architecture: Architecture, tmp_path: Path) -> None:
    """A folder from elsewhere, whose model alone would refuse more than one text at a time."""
    folder = tiny_base_model(tmp_path / "plain", architecture=architecture)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).save_pretrained(folder)
    if architecture == "llama":  # as its early configurations have it
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stated, "pad_token_id": -1}))
    clf = TextClassifier.from_checkpoint(folder, device="cpu")
    texts = [*TEXTS, LONG, ""]
    assert_same([scores(r) for r in clf.batch(texts)], [scores(clf.invoke(text)) for text in texts], gap=1e-5)


def test_a_model_that_cannot_be_exported_is_served_by_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training ends all the same and says so; asked for by name, the export is refused with the reason."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(exporting._WRITERS, "onnx", fail)
    base = tiny_base_model(tmp_path / "base")
    checkpoint = fine_tune(TrainConfig(**options(base, classes(tmp_path / "rows"), tmp_path / "out")))

    assert "No export is left beside the weights, torch serves" in caplog.text
    assert not (checkpoint.path / "onnx").exists()
    assert Predictor.load(checkpoint, device="cpu").backend.name == "torch"
    with pytest.raises(NotExportable, match=r"exported to onnx in float32, found a bert that cannot \(RuntimeError\)"):
        exporting.export(checkpoint)
