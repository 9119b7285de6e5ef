"""What a checkpoint gets right and wrong, said so that it can be acted upon."""

import json
import os
import re
import shutil
import stat
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lc_finetune.checkpoint import MANIFEST, Checkpoint, NumberInterval, NumberScale, Task, write_manifest
from lc_finetune.cli import main
from lc_finetune.data import (
    Example,
    MultiLabelExample,
    PairExample,
    ReadOptions,
    RegressionExample,
    TaggedExample,
    TextExample,
    read_examples,
    sample_file,
)
from lc_finetune.evaluation import Evaluation, compare, evaluate, evaluation_page
from lc_finetune.evaluation.comparison import McNemar, mcnemar
from lc_finetune.evaluation.corrections import SUFFIXES, errors_file
from lc_finetune.evaluation.history import Curve, loss_curves, metric_curves, read_history
from lc_finetune.evaluation.judging import error_types, joint_mistakes, judge
from lc_finetune.evaluation.matrix import MOST_LABELS, matrix_of, most_confused
from lc_finetune.evaluation.noise import likely_label_errors
from lc_finetune.evaluation.plots import length_bins
from lc_finetune.inference import Predictor
from lc_finetune.inference.outputs import outputs_of
from lc_finetune.inference.scope import fit_detector
from lc_finetune.labels import Span
from lc_finetune.schemas import Classification, Entity, MultiLabelClassification, Scores, Tagging
from lc_finetune.testing import LABELS, SENTENCES, tiny_checkpoint
from lc_finetune.train import TrainConfig, fine_tune
from lc_finetune.train.metrics import classification_figures, entity_figures, multi_label_figures, ordinal_figures
from tests.chromium import BROWSER

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
HISTORY = [
    {"loss": 2.0, "learning_rate": 1e-4, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.5, "eval_accuracy": 0.5, "eval_runtime": 1.0, "epoch": 1.0, "step": 10},
    {"loss": 1.0, "learning_rate": 5e-5, "epoch": 2.0, "step": 20},
    {"eval_loss": 1.25, "eval_accuracy": 0.75, "eval_runtime": 1.0, "epoch": 2.0, "step": 20},
]


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 9))) for _ in range(count)]


def evaluated(checkpoint: Checkpoint, count: int = 200) -> Evaluation:
    """Answers of a checkpoint to texts of which three in four have the label, labels or spans that it gives."""
    texts = some_texts(count)
    predictor = Predictor.load(checkpoint, device="cpu", backend="torch")
    random = np.random.default_rng(1)
    examples: list[Example] = []
    for text, result in zip(texts, predictor.predict(texts), strict=True):
        same = random.random() < 0.75
        if isinstance(result, Classification):
            examples.append(TextExample(text, result.label if same else str(random.choice(LABELS))))
        elif isinstance(result, MultiLabelClassification):
            labels = result.labels if same else tuple(sorted(random.choice(LABELS, size=2, replace=False).tolist()))
            examples.append(MultiLabelExample(text, labels))
        else:
            spans = tuple(Span(one.start, one.end, one.label if same else "PER") for one in result.entities)
            examples.append(TaggedExample(text, spans if same or random.random() < 0.5 else spans[:1]))
    return evaluate(predictor, examples, source="rows.csv")


def written(checkpoint: Checkpoint, path: Path) -> Path:
    """The rows of `evaluated` as a file."""
    rows = []
    for example in evaluated(checkpoint).examples:
        if isinstance(example, TextExample):
            rows.append({"text": example.text, "label": example.label})
        elif isinstance(example, MultiLabelExample):
            rows.append({"text": example.text, "labels": list(example.labels)})
        else:
            rows.append({"text": example.text, "entities": [span._asdict() for span in example.spans]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(params=["tiny_classifier", "tiny_ordinal", "tiny_multi_label", "tiny_tagger"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """A checkpoint for each task in turn."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def of_labels(rows: list[tuple[str, dict[str, float]]]) -> tuple[list[Example], list[Any]]:
    """Texts with a label, and results with the scores given."""
    results = [
        Classification(text="x", label=max(scores, key=lambda one: scores[one]), score=max(scores.values()),
                       scores=Scores.of(scores))
        for _, scores in rows
    ]  # fmt: skip
    return [TextExample("x", label) for label, _ in rows], results


def tagging(*entities: tuple[int, int, str, float]) -> Tagging:
    text = "x" * 100
    return Tagging(
        text=text,
        entities=tuple(
            Entity(label=label, text=text[start:end], start=start, end=end, score=score)
            for start, end, label, score in entities
        ),
    )


# What is wrong.


def test_an_entity_is_wrong_in_one_of_five_ways() -> None:
    """Label, bounds, both; not found, or not there."""
    wanted = (Span(0, 5, "PER"), Span(10, 15, "PER"), Span(20, 25, "PER"), Span(30, 35, "PER"), Span(40, 45, "LOC"))
    found = tagging(
        (0, 5, "PER", 0.9), (10, 15, "LOC", 0.8), (20, 23, "PER", 0.7), (31, 36, "LOC", 0.6), (50, 55, "LOC", 0.5)
    )
    answers = judge([TaggedExample("x" * 100, wanted)], [found])

    assert [answer.kind for answer in answers] == [
        "right", "type", "boundary", "type and boundary", "missed", "invented"
    ]  # fmt: skip
    assert error_types(answers) == {
        "LOC": {"missed": 1, "invented": 1},
        "PER": {"right": 1, "type": 1, "boundary": 1, "type and boundary": 1},
    }
    assert answers[4].found is None
    assert answers[4].sureness == 0.0
    assert answers[5].wanted is None


def test_entities_are_paired_once_by_what_they_share() -> None:
    """The one that shares most goes with it; the other one is invented."""
    answers = judge(
        [TaggedExample("x" * 100, (Span(0, 10, "PER"),))], [tagging((0, 3, "PER", 0.9), (4, 10, "LOC", 0.8))]
    )

    assert [(answer.kind, answer.found_span) for answer in answers] == [
        ("type and boundary", (4, 10)), ("invented", (0, 3))
    ]  # fmt: skip


def test_labels_missed_and_given_in_one_text_are_counted_together() -> None:
    """And those that come alone beside nothing."""
    examples = [MultiLabelExample("x", ("a", "b")), MultiLabelExample("x", ("a",)), MultiLabelExample("x", ())]
    results = [
        MultiLabelClassification(text="x", labels=labels, scores=Scores.of({"a": 0.1, "b": 0.6, "c": 0.9}))
        for labels in (("b", "c"), (), ("c",))
    ]
    answers = judge(examples, results)

    assert joint_mistakes(answers) == {("a", "c"): 1, ("a", None): 1, (None, "c"): 1}
    assert [(answer.row, answer.kind, round(answer.sureness, 2)) for answer in answers] == [
        (0, "right", 0.6), (0, "invented", 0.9), (0, "missed", 0.9), (1, "missed", 0.9), (2, "invented", 0.9)
    ]  # fmt: skip


def test_a_planted_label_error_is_found() -> None:
    """And no mistake of a model that is less sure than it is of texts with that label."""
    sure, unsure = {"a": 0.95, "b": 0.05}, {"a": 0.55, "b": 0.45}
    of_b = {"a": 0.1, "b": 0.9}
    examples, results = of_labels([("a", sure)] * 8 + [("b", of_b)] * 8 + [("b", sure), ("b", unsure), ("a", sure)])
    answers = judge(examples, results)

    assert [answer.row for answer in likely_label_errors(answers, examples, results)] == [16]


def test_label_errors_of_several_labels_are_found_one_by_one() -> None:
    """A label that should be there, or should not."""
    examples = [MultiLabelExample("x", ("a",))] * 6 + [MultiLabelExample("x", ())] * 6
    found = [("a", 0.9)] * 5 + [("", 0.02)] + [("", 0.1)] * 5 + [("a", 0.99)]
    results = [
        MultiLabelClassification(text="x", labels=(name,) if name else (), scores=Scores.of({"a": score}))
        for name, score in found
    ]
    suspects = likely_label_errors(judge(examples, results), examples, results)

    assert [(one.row, one.kind) for one in suspects] == [(11, "invented"), (5, "missed")]


def test_an_entity_as_sure_as_the_right_ones_puts_the_labels_in_doubt() -> None:
    """A less sure one does not, nor one of a type that is never right."""
    examples = [TaggedExample("x" * 100, (Span(0, 5, "PER"),)), TaggedExample("x" * 100, ())]
    results = [tagging((0, 5, "PER", 0.8)), tagging((0, 5, "PER", 0.9), (10, 15, "PER", 0.7), (20, 25, "LOC", 0.99))]
    suspects = likely_label_errors(judge(examples, results), examples, results)

    assert [(one.row, one.found_span) for one in suspects] == [(1, (0, 5))]


def test_labels_taken_for_each_other_stand_together() -> None:
    """However far apart their names are."""
    counts = {("a", "a"): 9, ("m", "m"): 9, ("z", "z"): 5, ("a", "z"): 4, ("z", "a"): 4, ("n", "n"): 9, ("m", "n"): 1}
    places = {label: i for i, label in enumerate(matrix_of(counts).labels)}

    assert abs(places["a"] - places["z"]) == 1
    assert abs(places["m"] - places["n"]) == 1
    assert most_confused(counts)[0] == (("a", "z"), 4)


def test_a_matrix_of_very_many_labels_keeps_those_of_most_mistakes() -> None:
    """The others are counted as left out, and in the totals of the rows."""
    counts = {(f"l{i}", f"l{i}"): 1 for i in range(MOST_LABELS + 30)} | {("l149", "l3"): 2, ("l7", "l8"): 1}
    matrix = matrix_of(counts)

    assert matrix.left_out == 30
    assert len(matrix.labels) == MOST_LABELS
    assert {"l149", "l3", "l7", "l8"} <= set(matrix.labels)
    assert matrix.totals["l149"] == 3


def test_lengths_are_counted_whole() -> None:
    """The last bin takes what is much longer than all others."""
    lengths = [*range(1, 100), 5000]
    bins = length_bins(lengths, {0, 99})

    assert sum(one.right + one.wrong for one in bins) == 100
    assert sum(one.wrong for one in bins) == 2
    assert (bins[-1].last, bins[-1].wrong) == (None, 1)
    assert [one.range for one in length_bins([0, 1, 1], set())] == ["0", "1"]


def test_curves_come_from_the_log(tmp_path: Path) -> None:
    """Losses and metrics, not times; lines that are no JSON are passed over, and so are other entries."""
    lines = [*map(json.dumps, HISTORY), "no JSON", '{"metric": 0.5, "bias": 0}', '{"loss": NaN, "epoch": 3}', "[1]"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    history = read_history(tmp_path)

    assert loss_curves(history) == [
        Curve("training", ((1.0, 2.0), (2.0, 1.0))), Curve("validation", ((1.0, 1.5), (2.0, 1.25)))
    ]  # fmt: skip
    assert metric_curves(history) == [Curve("validation accuracy", ((1.0, 0.5), (2.0, 0.75)))]
    assert read_history(tmp_path / "none") == []


# Two checkpoints.


def test_the_compared_figures_are_those_of_the_table(checkpoint: Checkpoint) -> None:
    """Whatever the task; against itself nothing differs."""
    evaluation = evaluated(checkpoint)
    comparison = compare(evaluation, evaluation, name="itself")
    examples: list[Any] = list(evaluation.examples)
    results = evaluation.results
    if checkpoint.task == "text-classification":
        figures = classification_figures([e.label for e in examples], [r.label for r in results])
        names: tuple[str, ...] = ("accuracy", "macro_f1")
    elif checkpoint.task == "ordinal-classification":
        figures = ordinal_figures(
            [e.label for e in examples], [r.label for r in results], [r.expected_rank for r in results],
            checkpoint.labels,
        )  # fmt: skip
        names = ("accuracy", "mae", "qwk")
    elif checkpoint.task == "multi-label-classification":
        figures = multi_label_figures([e.labels for e in examples], [r.labels for r in results])
        names = ("micro_f1", "macro_f1")
    else:
        found = [[Span(e.start, e.end, e.label) for e in r.entities] for r in results]
        figures = entity_figures([e.spans for e in examples], found)
        names = ("f1", "macro_f1")

    assert [one.this for one in comparison.differences] == pytest.approx([figures[name] for name in names])
    assert {one.interval for one in comparison.differences} == {(0.0, 0.0)}
    assert comparison.test == (None if checkpoint.task == "token-classification" else McNemar(0, 0, 1.0))


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """Its width follows from the texts on which the two differ: here 30 and 10 of 1,000."""
    gold, wrong = {"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}

    def answering(right: range) -> Evaluation:
        examples, results = of_labels([("a", gold if row in right else wrong) for row in range(1000)])
        return Evaluation("text-classification", "rows", examples, results, [1] * 1000, 10, None)

    comparison = compare(answering(range(0, 930)), answering(range(30, 940)), name="other")
    accuracy = comparison.differences[0]
    error = np.sqrt(0.04 - 0.02**2) / np.sqrt(1000)

    assert accuracy.gain == pytest.approx(0.02)
    assert accuracy.interval == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=0.002)
    assert comparison.test == mcnemar({*range(930, 1000)}, {*range(30), *range(940, 1000)})
    assert comparison.test is not None
    assert comparison.test.p_value == pytest.approx(0.00222, abs=1e-5)


# A file to correct.


def test_rows_with_a_mistake_are_read_by_training(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Each as it was given, and no other."""
    evaluation = evaluated(checkpoint)
    path = tmp_path / f"errors{SUFFIXES[checkpoint.task]}"
    path.write_text(errors_file(evaluation), newline="")
    loaded = read_examples(path, ReadOptions(task=checkpoint.task))

    assert loaded.examples == tuple(evaluation.examples[row] for row in sorted(evaluation.wrong))
    assert 10 < len(loaded.examples) < len(evaluation.examples)


def test_relations_with_a_mistake_are_read_by_training(tmp_path: Path) -> None:
    """With both mentions where they were."""
    made = tiny_checkpoint(tmp_path / "relations", task="relation-classification", max_length=96)
    examples = read_examples(sample_file("relations", "test")).examples
    evaluation = evaluate(Predictor.load(made, device="cpu"), examples, source="rows")
    path = tmp_path / f"errors{SUFFIXES[made.task]}"
    path.write_text(errors_file(evaluation), newline="")

    assert read_examples(path).examples == tuple(examples[row] for row in sorted(evaluation.wrong)) != ()


@pytest.mark.parametrize("labels", ["it's", 'a "b", c', "x|y", " blank ", "1"])
def test_no_character_is_lost_on_the_way(labels: str, tmp_path: Path) -> None:
    """Neither of a text nor of a label, and an empty text stays a row."""
    texts = ['He said "no",\r\nthen\nleft.', " spaces ", "", "a;b\tc", "'quoted'"]
    examples: list[Any] = [TextExample(text, labels) for text in texts]
    results = [Classification(text=text, label="other", score=0.5, scores=Scores.of({"other": 0.5})) for text in texts]
    several: list[Any] = [MultiLabelExample(text, (labels, "z")) for text in texts]
    others = [MultiLabelClassification(text=text, labels=(), scores=Scores.of({"z": 0.1})) for text in texts]
    for given, answers in ((examples, results), (several, others)):
        task: Task = "text-classification" if given is examples else "multi-label-classification"
        path = tmp_path / "errors.csv"
        path.write_text(errors_file(Evaluation(task, "rows", given, answers, [1] * 5, 10, None)), newline="")

        assert list(read_examples(path, ReadOptions(task=task)).examples) == given


# The page.


class Page(HTMLParser):
    """A page's elements; fails where one is left open or closed twice."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def ids(self, tag: str | None = None) -> list[str]:
        """Every id, or those of one kind of element."""
        return [given["id"] or "" for name, given in self.elements if "id" in given and tag in (None, name)]


SECTIONS = {
    "text-classification": ["figures", "comparison", "training", "labels", "confusion", "reliability", "mistakes",
                            "suspects", "lengths"],
    "ordinal-classification": ["figures", "comparison", "training", "labels", "ranks", "confusion", "reliability",
                               "mistakes", "suspects", "lengths"],
    "multi-label-classification": ["figures", "comparison", "training", "labels", "confusion", "reliability",
                                   "mistakes", "suspects", "lengths"],
    "token-classification": ["figures", "comparison", "training", "labels", "errors", "confusion", "reliability",
                             "mistakes", "suspects", "lengths"],
}  # fmt: skip
PLOTS = {
    "text-classification": ["loss-plot", "metric-plot", "confusion-plot", "reliability-plot", "lengths-plot"],
    "ordinal-classification": ["loss-plot", "metric-plot", "ranks-plot", "confusion-plot", "reliability-plot",
                               "lengths-plot"],
    "multi-label-classification": ["loss-plot", "metric-plot", "confusion-plot", "reliability-plot", "lengths-plot"],
    "token-classification": ["loss-plot", "metric-plot", "errors-plot", "confusion-plot", "reliability-plot",
                             "lengths-plot"],
}  # fmt: skip


@pytest.fixture
def trained(checkpoint: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A copy of a checkpoint, calibrated, with a log of its training."""
    folder = Path(shutil.copytree(checkpoint.path, tmp_path / "trained"))
    assert main(["calibrate", str(folder), str(written(checkpoint, tmp_path / "calibration.jsonl"))]) == 0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in HISTORY))
    return Checkpoint.load(folder)


def page_of(checkpoint: Checkpoint, *, show_texts: bool = False) -> str:
    evaluation = evaluated(checkpoint)
    names = {label for answer in evaluation.answers for label in (answer.wanted, answer.found) if label}
    row = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}
    figures = {"rows": 200, "macro_f1": 0.5, "confidence": {"ece": 0.1}, "per_label": dict.fromkeys(sorted(names), row)}
    return evaluation_page(
        checkpoint, evaluation, {"rows.csv": figures}, name="support",
        comparison=compare(evaluation, evaluation, name="itself"), show_texts=show_texts,
    )  # fmt: skip


def test_the_page_is_whole_and_needs_nothing_else(trained: Checkpoint) -> None:
    """Well-formed, every section and plot there, each id once, every link to one of them, nothing from elsewhere."""
    content = page_of(trained)
    page = Page(content)
    ids = page.ids()
    addresses = [given[key] or "" for _, given in page.elements for key in ("href", "src") if key in given]

    assert page.ids("section") == SECTIONS[trained.task]
    assert page.ids("svg") == PLOTS[trained.task]
    assert len(ids) == len(set(ids))
    assert {one for one in addresses if not one.startswith("#")} == {"data:,"}
    assert {one[1:] for one in addresses if one.startswith("#")} <= set(ids)
    assert not re.search(r"https?:|//\w|url\(|@import|fetch|XMLHttp", content.replace("//\x20", ""))
    named = [given[key] for _, given in page.elements for key in ("aria-labelledby",) if key in given]
    assert set(named) <= set(ids)
    assert all({"role", "aria-labelledby"} <= set(given) for tag, given in page.elements if tag == "svg")
    assert sum(tag == "caption" for tag, _ in page.elements) == sum(tag == "table" for tag, _ in page.elements)
    assert all("scope" in given for tag, given in page.elements if tag == "th")
    assert len(content) < 500_000


def test_the_page_holds_texts_only_when_asked(trained: Checkpoint) -> None:
    """Without, it says how to see them; with, they are those of the mistakes."""
    evaluation = evaluated(trained)
    texts = {evaluation.examples[answer.row].text for answer in evaluation.answers if answer.kind != "right"}
    long = {text for text in texts if len(text.split()) > 4}
    without, within = (" ".join("".join(Page(page_of(trained, show_texts=asked)).words).split()) for asked in (0, 1))

    assert long
    assert not any(text in without for text in long)
    assert "--show-texts" in without
    assert any(text in within for text in long)


def test_labels_and_texts_are_content_and_never_markup(tmp_path: Path) -> None:
    """Whatever they hold."""
    evil = '</title></script><script>alert("1")</script>'
    checkpoint = tiny_checkpoint(tmp_path / evil.replace("/", "∕"), labels=(evil, "'\"&", "b"))
    predictor = Predictor.load(checkpoint, device="cpu")
    examples: list[Example] = [TextExample(f"{evil} {i}", (evil, "b", "'\"&", "<i>")[i % 4]) for i in range(12)]
    evaluation = evaluate(predictor, examples, source=evil)
    row = {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}
    content = evaluation_page(
        checkpoint, evaluation, {evil: {"rows": 12, "per_label": {evil: row, "<i>": row}}}, name=evil, show_texts=True
    )
    page = Page(content)

    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "i" not in [tag for tag, _ in page.elements]
    assert evil in "".join(page.words)


def test_nothing_to_judge_leaves_a_page_of_the_training(tiny_classifier: Checkpoint) -> None:
    """Where no row was held out."""
    nothing = evaluate(Predictor.load(tiny_classifier, device="cpu"), [], source="validation")

    assert Page(evaluation_page(tiny_classifier, nothing, {}, name="support")).ids("section") == []


def test_training_leaves_the_page_in_the_checkpoint(base_model: Path, tmp_path: Path) -> None:
    """Of the test rows, with the figures of all splits, without a text; it is not hashed."""
    texts = some_texts(260)
    for part, some in (("train", texts[:200]), ("test", texts[200:])):
        rows = [{"text": text, "label": LABELS[i % 2]} for i, text in enumerate(some)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = fine_tune(
        TrainConfig(
            base_model=str(base_model), output_dir=str(tmp_path / "support"), epochs=1, batch_size=8, baseline=False,
            train_file=str(tmp_path / "train.jsonl"), test_file=str(tmp_path / "test.jsonl"),
        )
    )  # fmt: skip
    content = (checkpoint.path / "report.html").read_text()
    page = Page(content)
    words = "".join(page.words)

    assert page.ids("section") == [one for one in SECTIONS[checkpoint.task] if one != "comparison"]
    assert "test: 60 rows" in words
    assert {"validation", "test"} <= set(words.split())
    assert not any(text in content for text in texts if len(text.split()) > 4)
    assert checkpoint.manifest is not None
    assert "report.html" not in checkpoint.manifest.files


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_shows_the_page_without_complaint(trained: Checkpoint, tmp_path: Path) -> None:
    """No error on the console, every plot has a size; a click sorts, another one turns the order; zoom enlarges."""
    (tmp_path / "page.html").write_text(page_of(trained))
    console, _ = browse(tmp_path / "page.html", tmp_path)
    assert console == []

    probe = """
      const heads = document.querySelectorAll("#labels-table thead button");
      const column = () => [...document.querySelectorAll("#labels-table tbody th")].map(cell => cell.textContent);
      const seen = {before: column()};
      heads[0].click(); seen.once = column();
      heads[0].click(); seen.twice = column();
      seen.sorted = heads[0].closest("th").getAttribute("aria-sort");
      const matrix = document.getElementById("confusion-plot");
      const width = matrix.getBoundingClientRect().width;
      document.querySelector('[data-zoom="1.25"]').click();
      seen.zoomed = matrix.getBoundingClientRect().width / width;
      matrix.querySelector(".cell rect").dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
      seen.read = document.querySelector("output").textContent;
      seen.plots = [...document.querySelectorAll("svg")].filter(
        plot => plot.getBoundingClientRect().width > 100 && plot.querySelector("rect, path")).map(plot => plot.id);
      document.body.innerHTML = "<pre></pre>";
      document.querySelector("pre").textContent = JSON.stringify(seen);
    """
    (tmp_path / "probed.html").write_text(page_of(trained).replace("</body>", f"<script>{probe}</script></body>"))
    console, words = browse(tmp_path / "probed.html", tmp_path)
    seen = json.loads(words)

    assert console == []
    assert seen["plots"] == PLOTS[trained.task]
    assert seen["once"] == sorted(seen["before"])
    assert seen["twice"] == sorted(seen["before"], reverse=True)
    assert seen["sorted"] == "descending"
    assert seen["zoomed"] == pytest.approx(1.25, abs=0.01)
    assert "of the row" in seen["read"]


def browse(page: Path, profile: Path) -> tuple[list[str], str]:
    """Open a page in Chromium without a window: what its console says, and the words of its body."""
    assert BROWSER is not None
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [BROWSER, "--headless", "--disable-gpu", *alone, f"--user-data-dir={profile / 'profile'}",
         "--enable-logging=stderr", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    body = re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)
    words = "".join(Page(body[0]).words) if body else ""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line], words


# The command.


def test_the_command_measures_any_labelled_file(
    trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the table, compares, and writes page and rows with a mistake for those who may read the file."""
    file = written(trained, tmp_path / "rows.jsonl")
    file.chmod(0o640)
    page, errors = tmp_path / "out.html", tmp_path / f"out{SUFFIXES[trained.task]}"
    capsys.readouterr()
    asked = ["evaluate", str(trained.path), str(file), "--report", str(page), "--errors", str(errors)]
    status = main([*asked, "--against", str(trained.path)])
    said = capsys.readouterr().out

    assert status == 0
    assert "rows.jsonl (200 rows)" in said
    assert "precision  recall      F1  support" in said
    assert "+0.0000, 95 % interval" in said
    assert ("McNemar" in said) == (trained.task != "token-classification")
    assert "comparison" in Page(page.read_text()).ids("section")
    assert f"{len(read_examples(errors, ReadOptions(task=trained.task)).examples)} rows with a mistake" in said
    assert [stat.S_IMODE(path.stat().st_mode) for path in (page, errors)] == [0o640, 0o640]


def test_pairs_are_measured_as_pairs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both texts are read, shown when asked, and written with the mistakes."""
    checkpoint = tiny_checkpoint(tmp_path / "pairs", task="text-pair-classification")
    rows = [
        {"text": f"{text} first", "text_pair": f"second {i}", "label": LABELS[i % 3]}
        for i, text in enumerate(some_texts(60))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["evaluate", str(checkpoint.path), str(tmp_path / "rows.jsonl"), "--report", str(tmp_path / "out.html")]
    status = main([*asked, "--errors", str(tmp_path / "out.csv"), "--show-texts", "--against", str(checkpoint.path)])
    page = Page((tmp_path / "out.html").read_text())
    wrong = read_examples(tmp_path / "out.csv", ReadOptions(task="text-pair-classification")).examples

    assert status == 0
    assert page.ids("section") == [one for one in SECTIONS["text-classification"] if one != "training"]
    assert " first | second " in "".join(page.words)
    assert f"{len(wrong)} rows with a mistake" in capsys.readouterr().out
    assert {(one.text, one.text_pair) for one in wrong if isinstance(one, PairExample)} <= {
        (row["text"], row["text_pair"]) for row in rows
    }


def test_numbers_are_measured_by_their_distance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is a number outside of its interval; two regressors are compared by their errors."""
    checkpoint = tiny_checkpoint(tmp_path / "numbers", task="regression")
    assert checkpoint.manifest is not None
    interval = NumberInterval(half_width=0.1, coverage=0.9, split="validation", rows=50)
    scale = NumberScale(centre=0.0, unit=1.0, interval=interval)
    write_manifest(checkpoint.path, checkpoint.manifest.model_copy(update={"scale": scale}))
    texts = some_texts(60)
    found = Predictor.load(Checkpoint.load(checkpoint.path), device="cpu").predict(texts)
    rows = [
        {"text": text, "label": result.value + (0.05, -0.5)[i % 2]}
        for i, (text, result) in enumerate(zip(texts, found, strict=True))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["evaluate", str(checkpoint.path), str(tmp_path / "rows.jsonl"), "--report", str(tmp_path / "out.html")]
    status = main([*asked, "--errors", str(tmp_path / "out.csv"), "--against", str(checkpoint.path)])
    said = capsys.readouterr().out
    page = Page((tmp_path / "out.html").read_text())
    wrong = read_examples(tmp_path / "out.csv", ReadOptions(task="regression")).examples

    assert status == 0
    assert "MAE        0.2750 against 0.2750" in said
    assert "McNemar" not in said
    assert page.ids("section") == ["figures", "comparison", "numbers", "lengths"]
    assert page.ids("svg") == ["numbers-plot", "lengths-plot"]
    assert "30 lie outside of their interval" in "".join(page.words)
    assert not any(text in "".join(page.words) for text in texts if len(text.split()) > 4)
    assert [(one.text, one.value) for one in wrong if isinstance(one, RegressionExample)] == [
        (row["text"], pytest.approx(row["label"])) for row in rows[1::2]
    ]


def test_a_plain_folder_is_measured_as_well(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Without a log and without calibration, the page has what is left."""
    folder = Path(shutil.copytree(checkpoint.path, tmp_path / "plain"))
    (folder / MANIFEST).unlink()
    file = written(checkpoint, tmp_path / "rows.jsonl")

    assert main(["evaluate", str(folder), str(file), "--report", str(tmp_path / "out.html")]) == 0
    sections = Page((tmp_path / "out.html").read_text()).ids("section")
    taken_for = Checkpoint.load(folder).task  # without a word of an order
    assert sections == [one for one in SECTIONS[taken_for] if one not in ("comparison", "training")]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--report", "{tmp}/out.pdf"], "expected a .html file"),
        (["--report", ""], "expected a .html file"),
        (["--errors", "{tmp}/rows.csv", "--overwrite"], "apart from the labelled rows"),
        (["--errors", "{tmp}/out.jsonl"], "expected a .csv file for the rows of a checkpoint for text-classification"),
        (["--errors", "{tmp}/none/out.csv"], "expected a folder to write to"),
        (["--errors", "{tmp}/there.csv"], "pass --overwrite"),
        (["--against", "{tagger}"], "expected a text classifier"),
        (["--against", "{tmp}/none"], "found nothing usable"),
        (["--label-column", "shade"], "expected the column 'shade'"),
        (["--out-of-scope-label", "none"], "found 0 with it and 2 others"),
        (["--reprot", "x.html"], "did you mean '--report'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    more: list[str],
    named: str,
    tiny_classifier: Checkpoint,
    tiny_tagger: Checkpoint,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And status 2, before anything is computed."""
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na,card\nb,cash\n")
    (tmp_path / "there.csv").write_text("corrected by hand")
    before = sorted(tmp_path.iterdir())
    given = [one.format(tmp=tmp_path, tagger=tiny_tagger.path) for one in more]
    status = main(["evaluate", str(tiny_classifier.path), str(file), *given])
    said = capsys.readouterr()

    assert status == 2
    assert named in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "there.csv").read_text() == "corrected by hand"


def test_rows_of_another_task_are_refused(
    tiny_tagger: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels say nothing of a tagger."""
    (tmp_path / "rows.csv").write_text("text,label\na,card\nb,cash\n")

    assert main(["evaluate", str(tiny_tagger.path), str(tmp_path / "rows.csv")]) == 2
    assert "expected rows for token-classification" in capsys.readouterr().err


def test_rows_out_of_scope_are_measured_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As training does it, where the checkpoint tells them."""
    checkpoint = tiny_checkpoint(tmp_path / "c")
    features = outputs_of(Predictor.load(checkpoint, device="cpu"), some_texts(90)).features
    fit_detector(features[:60], np.arange(60) % 3, features[60:]).save(checkpoint.path)
    assert checkpoint.manifest is not None
    write_manifest(checkpoint.path, checkpoint.manifest)
    rows = [f"{text},{('card', 'cash', 'nothing')[i % 3]}" for i, text in enumerate(["a", "b", "c", "d", "e", "f"])]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]))
    asked = ["evaluate", str(checkpoint.path), str(tmp_path / "rows.csv")]

    assert main([*asked, "--out-of-scope-label", "nothing"]) == 0
    said = capsys.readouterr().out
    assert "rows.csv (4 rows)" in said
    assert "of 2 rows rejected" in said


def test_labels_that_the_model_lacks_count_as_mistakes(
    tiny_classifier: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in training's report; they are in the matrix, and overwriting is possible when asked for."""
    (tmp_path / "rows.csv").write_text("text,label\na,card\nb,nobody\nc,cash\n")
    (tmp_path / "out.html").write_text("old")
    asked = ["evaluate", str(tiny_classifier.path), str(tmp_path / "rows.csv"), "--report", str(tmp_path / "out.html")]

    assert main([*asked, "--overwrite"]) == 0
    assert "nobody" in capsys.readouterr().out
    assert "wanted nobody" in "".join(Page((tmp_path / "out.html").read_text()).words)
