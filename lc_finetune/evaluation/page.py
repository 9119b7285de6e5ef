"""An evaluation → one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lc_finetune.checkpoint import QUESTIONS, Checkpoint, Task, write_text_atomically
from lc_finetune.confidence import Bin, Calibration
from lc_finetune.data import Example, PairExample, QuestionExample, gold_of
from lc_finetune.evaluation.answering import Evaluation
from lc_finetune.evaluation.comparison import DRAWS, Comparison
from lc_finetune.evaluation.history import TRIALS, Curve, loss_curves, metric_curves, read_history
from lc_finetune.evaluation.judging import (
    SPAN_ERRORS,
    Answer,
    Kind,
    confusions,
    error_types,
    joint_mistakes,
)
from lc_finetune.evaluation.matrix import Pair, matrix_of, most_confused
from lc_finetune.evaluation.plots import (
    NOTHING,
    bar_plot,
    length_bins,
    length_plot,
    line_plot,
    matrix_plot,
    reliability_plot,
    scatter_plot,
    share_plot,
)
from lc_finetune.inference.reliability import reliability_bins
from lc_finetune.schemas import MultiLabelClassification, OrdinalClassification, QuestionAnswer, Regression, Tagging

REPORT = "report.html"
MOST_SHOWN = 50
"""Mistakes, likely label errors and pairs of labels that are listed."""
MOST_POINTS = 1500
"""Numbers that are drawn; more are chosen from with a seed."""
DISTANCES = ("two or more below", "one below", "one above", "two or more above")
"""Where a given label lies from the right one, in the order of the labels."""
HIDDEN = "Their texts are not on this page: lc-finetune evaluate CHECKPOINT FILE --show-texts shows them."
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table whose columns are sorted by a click; the first cell of a row names it."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @cached_property
    def numeric(self) -> frozenset[int]:
        """Which columns hold nothing but numbers."""
        return frozenset(
            i
            for i in range(len(self.columns))
            if (known := [row[i] for row in self.rows if row[i] is not None])
            and all(isinstance(cell, int | float) for cell in known)
        )


@dataclass(frozen=True)
class Section:
    """A part of the page: its words, its plots, its tables, and the numbers behind the plots."""

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    plots: Sequence[Markup] = ()
    matrix: Markup | None = None
    tables: Sequence[Table] = ()
    details: Sequence[Table] = ()


def write_report(folder: Path, evaluation: Evaluation, figures: Mapping[str, Mapping[str, Any]], *, name: str) -> None:
    """Leave the page in a checkpoint folder, without a word of any text."""
    page = evaluation_page(Checkpoint.load(folder), evaluation, figures, name=name)
    write_text_atomically(folder / REPORT, page)


def evaluation_page(
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    figures: Mapping[str, Mapping[str, Any]],
    *,
    name: str,
    comparison: Comparison | None = None,
    show_texts: bool = False,
) -> str:
    """Write the page.

    Args:
        checkpoint: What was evaluated; its training log is drawn if the folder keeps one.
        evaluation: Its answers to labelled texts.
        figures: The figures of each set of rows, those of `evaluation.source` among them.
        name: What the checkpoint is called.
        comparison: With another checkpoint.
        show_texts: Whether mistakes are shown with their texts; nothing of a text is on the page otherwise.
    """
    history = read_history(checkpoint.path)
    parts = [
        _figures(figures),
        _compared(comparison),
        _curves(loss_curves(history), metric_curves(history)),
        _search(checkpoint),
        *_of_answers(checkpoint, evaluation, figures.get(evaluation.source, {}), show_texts=show_texts),
    ]
    manifest = checkpoint.manifest
    labelled = checkpoint.task not in ("regression", QUESTIONS)
    facts = [
        checkpoint.task,
        f"{evaluation.source}: {len(evaluation.examples):,} rows",
        *([f"{len(checkpoint.labels):,} {_columns(checkpoint.task)}"] if labelled else []),
        *([f"{len(checkpoint.tags):,} tags"] if checkpoint.tags else []),
        *([f"base model {manifest.base_model}"] if manifest and manifest.base_model else []),
    ]
    rendered: str = _template().render(
        title=name, facts=facts, sections=[part for part in parts if part is not None], version=version("lc-finetune")
    )
    return rendered


def _columns(task: Task) -> str:
    return "tags" if task == "token-classification" else "labels"


def _of_answers(
    checkpoint: Checkpoint, evaluation: Evaluation, figures: Mapping[str, Any], *, show_texts: bool
) -> list[Section | None]:
    if not evaluation.examples:
        return []
    if isinstance(evaluation.results[0], Regression):
        return [_numbers(evaluation, show_texts=show_texts), _lengths(evaluation)]
    if isinstance(evaluation.results[0], QuestionAnswer):
        return [
            _questions(evaluation),
            _reliability(evaluation, evaluation.calibration),
            _mistakes(evaluation, show_texts=show_texts),
            _lengths(evaluation),
        ]
    if len(evaluation.parts) > 1:
        return _of_two_heads(checkpoint, evaluation, figures, show_texts=show_texts)
    of_mistakes = _confusion
    if isinstance(evaluation.results[0], Tagging):
        of_mistakes = _error_types
    elif isinstance(evaluation.results[0], MultiLabelClassification):
        of_mistakes = _joint
    elif isinstance(evaluation.results[0], OrdinalClassification):
        of_mistakes = _ranks
    return [
        _labels(checkpoint, evaluation, figures),
        *of_mistakes(evaluation),
        _reliability(evaluation, evaluation.calibration),
        _mistakes(evaluation, show_texts=show_texts),
        _suspects(evaluation, show_texts=show_texts),
        _lengths(evaluation),
    ]


def _of_two_heads(
    checkpoint: Checkpoint, evaluation: Evaluation, figures: Mapping[str, Any], *, show_texts: bool
) -> list[Section | None]:
    labels, entities = evaluation.parts
    return [
        _labels(checkpoint, labels, figures),
        *_confusion(labels),
        _reliability(labels, labels.calibration),
        _labels(checkpoint, entities, figures.get("entities", {}), name="types", title="Entity types"),
        *_error_types(entities, name="type-confusion"),
        _reliability(entities, entities.calibration, name="entity-reliability", title="Reliability of entity scores"),
        _mistakes(evaluation, show_texts=show_texts),
        _suspects(evaluation, show_texts=show_texts),
        _lengths(evaluation),
    ]


def _template() -> Any:
    environment = Environment(
        autoescape=True, loader=PackageLoader("lc_finetune.evaluation", "."), undefined=StrictUndefined
    )
    environment.filters |= {"shown": _shown, "raw": _raw}
    return environment.get_template("page.html.jinja")


def _shown(cell: Cell) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4f}" if cell == 0 or abs(cell) >= 0.001 else f"{cell:.3g}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _raw(cell: Cell) -> str:
    """Write what a column is sorted by."""
    if isinstance(cell, Markup):
        return str(cell.striptags())
    return "" if cell is None else str(cell)


# Sections.


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> Section | None:
    columns = {split: dict(_flat(one)) for split, one in figures.items()}
    names = list(dict.fromkeys(name for one in columns.values() for name in one))
    if not names:
        return None
    rows: list[list[Cell]] = [[name, *(one.get(name) for one in columns.values())] for name in names]
    return Section("figures", "Figures", tables=[Table("figures-table", "Figures by rows", ["figure", *columns], rows)])


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Cell]]:
    for name, value in figures.items():
        said = prefix + name.replace("_", " ").replace("f1", "F1").replace("ece", "ECE")
        if isinstance(value, Mapping):
            if name != "per_label":
                yield from _flat(value, f"{said}: ")
        elif value is None or isinstance(value, str | int | float):
            yield said, value


def _compared(comparison: Comparison | None) -> Section | None:
    if comparison is None:
        return None
    words = [
        f"Both answered the same {comparison.rows:,} rows. The interval holds 95 % of the differences in a paired "
        f"bootstrap over texts ({DRAWS:,} draws; Efron and Tibshirani 1993): if 0 lies outside, chance alone hardly "
        "explains the difference."
    ]
    if (test := comparison.test) is not None:
        words.append(
            f"{test.this_alone:,} texts are right here alone, {test.other_alone:,} there alone: p = {test.p_value:.4f} "
            "by McNemar's exact test (McNemar 1947), the chance of a split as uneven if neither were better."
        )
    rows: list[list[Cell]] = [
        [one.name, one.this, one.other, one.gain, *one.interval] for one in comparison.differences
    ]
    columns = ["figure", "here", "there", "difference", "from", "to"]
    return Section(
        "comparison", f"Against {comparison.other}", words,
        tables=[Table("comparison-table", "Here and there, with the 95 % interval of the difference", columns, rows)],
    )  # fmt: skip


def _curves(losses: Sequence[Curve], metrics: Sequence[Curve]) -> Section | None:
    both = (("loss", "Loss by epoch", losses), ("metric", "Validation metric by epoch", metrics))
    drawn = [(name, title, curves) for name, title, curves in both if curves]
    if not drawn:
        return None
    return Section(
        "training", "Training",
        plots=[line_plot(f"{name}-plot", title, curves, y_label=name) for name, title, curves in drawn],
        details=[_curve_table(name, title, curves) for name, title, curves in drawn],
    )  # fmt: skip


def _curve_table(name: str, title: str, curves: Sequence[Curve]) -> Table:
    epochs = sorted({epoch for curve in curves for epoch, _ in curve.points})
    values = [dict(curve.points) for curve in curves]
    rows = [[epoch, *(one.get(epoch) for one in values)] for epoch in epochs]
    return Table(f"{name}-table", title, ["epoch", *(curve.name for curve in curves)], rows)


def _search(checkpoint: Checkpoint) -> Section | None:
    """List the trials that the settings come from, and which of the settings mattered."""
    record = checkpoint.manifest.search if checkpoint.manifest else None
    if record is None:
        return None
    words = [
        f"The settings were searched for ({record.sampler} sampler, {record.pruner} pruner, seed {record.seed}) by the "
        f"validation {record.metric} of the best epoch, without the test rows: {record.finished} trials finished, "
        f"{record.pruned} were pruned, {record.failed} failed. Trial {record.best_trial} won."
    ]
    plots = []
    if record.importances:
        words.append(
            "The plot shows which share of the differences between finished trials a setting explains, by functional "
            "ANOVA (Hutter, Hoos and Leyton-Brown 2014); of few trials that is a hint."
        )
        shares = {name: min(1.0, max(0.0, share)) for name, share in record.importances.items()}
        plots = [share_plot("search-plot", "Importance of settings", shares, x_label="share of the differences")]
    rows: list[list[Cell]] = []
    for one in read_history(checkpoint.path, TRIALS):
        given = one.get("settings")
        settings = given if isinstance(given, dict) else {}
        facts = [one.get(name) for name in ("trial", "state", "value", "epochs")]
        rows.append([_cell(value) for value in (*facts, *(settings.get(name) for name in record.space))])
    columns = ["trial", "state", record.metric.replace("_", " "), "epochs run", *record.space]
    table = Table("search-table", "Trials", columns, rows)
    return Section("search", "Search", words, plots=plots, tables=[table] if rows else [])


def _cell(value: Any) -> Cell:
    return value if value is None or (isinstance(value, int | float) and not isinstance(value, bool)) else str(value)


def _labels(
    checkpoint: Checkpoint,
    evaluation: Evaluation,
    figures: Mapping[str, Any],
    *,
    name: str = "labels",
    title: str = "Labels",
) -> Section | None:
    per_label: Mapping[str, Mapping[str, Any]] = figures.get("per_label", {})
    if not per_label:
        return None
    columns = ["label", "precision", "recall", "F1", "rows"]
    rows: list[list[Cell]] = [
        [label, one["precision"], one["recall"], one["f1"], one["support"]] for label, one in per_label.items()
    ]
    if checkpoint.task == "multi-label-classification":
        kinds = Counter((answer.wanted or answer.found, answer.kind) for answer in evaluation.answers)
        thresholds = checkpoint.manifest.thresholds if checkpoint.manifest else None
        columns += ["missed", "given wrongly", "given from own score"]
        for row, label in zip(rows, per_label, strict=True):
            given_from = thresholds.per_label.get(label) if thresholds else None
            row += [kinds[label, "missed"], kinds[label, "invented"], given_from]
    else:
        pairs = most_confused(confusions(evaluation.answers))
        taken_for: dict[str | None, tuple[str | None, int]] = {}
        for (wanted, found), count in pairs:
            taken_for.setdefault(wanted, (found, count))
        columns += ["mostly taken for", "times"]
        for row, label in zip(rows, per_label, strict=True):
            other, times = taken_for.get(label, (None, 0))
            row += [_name(other), times] if times else [None, None]
    table = Table(f"{name}-table", "Figures by label; click a heading to sort", columns, rows)
    return Section(name, title, tables=[table])


def _confusion(evaluation: Evaluation) -> list[Section]:
    counts = confusions(evaluation.answers)
    words = [
        "A row is a right label, a column a label that was given. What is right lies on the diagonal. Labels that are "
        "taken for each other stand together; a cell is the stronger the larger its share of the row."
    ]
    return [
        _matrix_section(
            "confusion", "Confusion", words, counts, rows="wanted", columns="given",
            tables=[_pairs_table("confusion-pairs", "Labels most often taken for others", counts, "wanted", "given")],
        )
    ]  # fmt: skip


def _ranks(evaluation: Evaluation) -> list[Section]:
    """Show how far off answers are, in the order of the labels."""
    labels = tuple(evaluation.results[0].scores)
    place = {label: i for i, label in enumerate(labels)}
    counts = confusions(evaluation.answers)
    far: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for (wanted, found), count in counts.items():
        if wanted and found and {wanted, found} <= place.keys():
            far[wanted][_distance_kind(place[found] - place[wanted])] += count
    words = [
        "By right label, from the lowest to the highest: how many places in the order the given label lies from it."
    ]
    rows: list[list[Cell]] = [[label, *(one[kind] for kind in ("right", *DISTANCES))] for label, one in far.items()]
    ranks = Section(
        "ranks", "Distance from the right label", words,
        plots=[bar_plot("ranks-plot", "Texts by right label and distance", far, DISTANCES, counted="texts")],
        tables=[Table("ranks-table", "Texts by right label and distance", ["label", "right", *DISTANCES], rows)],
    )  # fmt: skip
    words = [
        "A row is a right label, a column a label that was given, both from the lowest to the highest. What is right "
        "lies on the diagonal, what is nearly right beside it; a cell is the stronger the larger its share of the row."
    ]
    confusion = _matrix_section(
        "confusion", "Confusion", words, counts, rows="wanted", columns="given", order=labels,
        tables=[_pairs_table("confusion-pairs", "Labels most often taken for others", counts, "wanted", "given")],
    )  # fmt: skip
    return [ranks, confusion]


def _distance_kind(places: int) -> str:
    if places == 0:
        return "right"
    return f"{'one' if abs(places) == 1 else 'two or more'} {'above' if places > 0 else 'below'}"


def _joint(evaluation: Evaluation) -> list[Section]:
    counts = joint_mistakes(evaluation.answers)
    words = [
        "Mistakes in one and the same text: a row is a label that was missed, a column one that was given wrongly "
        "beside it, which shows labels that stand in for each other. (nothing) is a mistake that came alone."
    ]
    if not counts:
        return [Section("confusion", "Mistakes together", ["There is no mistake."])]
    caption = "Labels most often missed and given together"
    return [
        _matrix_section(
            "confusion", "Mistakes together", words, counts, rows="missed", columns="given wrongly",
            tables=[_pairs_table("confusion-pairs", caption, counts, "missed", "given wrongly", with_nothing=False)],
        )
    ]  # fmt: skip


def _error_types(evaluation: Evaluation, *, name: str = "confusion") -> list[Section]:
    counted = error_types(evaluation.answers)
    kinds: tuple[Kind, ...] = ("right", *SPAN_ERRORS)
    if not counted:
        return [Section("errors", "Kinds of errors", ["There is no entity, and none was found."])]
    totals: Counter[Kind] = sum(counted.values(), Counter())
    rows: list[list[Cell]] = [[label, *(counts[kind] for kind in kinds)] for label, counts in counted.items()]
    rows.append(["(all)", *(totals[kind] for kind in kinds)])
    words = [
        "Each entity of the labels is set against the found one that it shares most characters with. type: the bounds "
        "are right, the label is not. boundary: the label is right, the bounds are not. missed: nothing was found. "
        "invented: there is none. Invented ones count for the type that was given, the others for the right type."
    ]
    mistakes: dict[str, dict[str, int]] = {
        label: {kind: counts[kind] for kind in SPAN_ERRORS} for label, counts in counted.items()
    }
    errors = Section(
        "errors", "Kinds of errors", words,
        plots=[bar_plot("errors-plot", "Errors by type and kind", mistakes, SPAN_ERRORS, counted="entities")],
        tables=[Table("errors-table", "Entities by type and kind of error", ["type", *kinds], rows)],
    )  # fmt: skip
    counts = confusions(evaluation.answers)
    confusion = _matrix_section(
        name, "Confusion of types",
        ["A row is a right type, a column the type of what was found in its place, wrong boundaries counted as well."],
        counts, rows="wanted", columns="found",
        tables=[_pairs_table(f"{name}-pairs", "Types most often taken for others", counts, "wanted", "found")],
    )  # fmt: skip
    return [errors, confusion]


def _questions(evaluation: Evaluation) -> Section:
    kinds: tuple[Kind, ...] = ("wrong", "boundary", "missed", "invented")
    counted = error_types(evaluation.answers)
    words = [
        "An answer is right if it is one of the right ones, as SQuAD compares them. boundary: it shares characters "
        "with a right one. wrong: it shares none. missed: there is an answer, none was found. invented: there is none."
    ]
    rows: list[list[Cell]] = [
        [label, *(counts[kind] for kind in ("right", *kinds))] for label, counts in counted.items()
    ]
    mistakes: dict[str, dict[str, int]] = {
        label: {kind: counts[kind] for kind in kinds} for label, counts in counted.items()
    }
    return Section(
        "errors", "Kinds of errors", words,
        plots=[bar_plot("errors-plot", "Errors by what was wanted and kind", mistakes, kinds, counted="questions")],
        tables=[Table("errors-table", "Questions by what was wanted and kind", ["wanted", "right", *kinds], rows)],
    )  # fmt: skip


def _matrix_section(
    name: str,
    title: str,
    words: Sequence[str],
    counts: Mapping[Pair, int],
    *,
    rows: str,
    columns: str,
    tables: Sequence[Table],
    order: Sequence[str] = (),
) -> Section:
    matrix = matrix_of(counts, order)
    if matrix.left_out:
        words = [*words, f"{matrix.left_out:,} labels in fewer mistakes are left out of the matrix, not of the tables."]
    return Section(
        name, title, words, matrix=matrix_plot(f"{name}-plot", title, matrix, rows=rows, columns=columns), tables=tables
    )


def _pairs_table(
    name: str, caption: str, counts: Mapping[Pair, int], wanted: str, found: str, *, with_nothing: bool = True
) -> Table:
    """List what is taken for what, what came alone too if `with_nothing`."""
    totals: Counter[str | None] = Counter()
    for (row, _), count in counts.items():
        totals[row] += count
    pairs = [one for one in most_confused(counts) if with_nothing or None not in one[0]]
    if len(pairs) > MOST_SHOWN:
        caption += f" ({MOST_SHOWN} of {len(pairs):,} pairs)"
    rows: list[list[Cell]] = [
        [_name(one), _name(other), count, count / totals[one], counts.get((other, one), 0)]
        for (one, other), count in pairs[:MOST_SHOWN]
    ]
    return Table(name, caption, [wanted, found, "times", "share of the row", "the other way round"], rows)


def _name(label: str | None) -> str:
    return NOTHING if label is None else label


def _reliability(
    evaluation: Evaluation,
    calibration: Calibration | None,
    *,
    name: str = "reliability",
    title: str = "Reliability of scores",
) -> Section | None:
    series: dict[str, Sequence[Bin]] = {}
    pairs = isinstance(evaluation.results[0], MultiLabelClassification)
    what = "Pairs of a text and a label, right if it applies," if pairs else "Answers"
    words = [f"{what} in bins of equal size, by score. On the dashed line, a score is the share of right ones."]
    if calibration is not None:
        series |= {"before calibration": calibration.before.bins, "after": calibration.after.bins}
        words.append(
            f"Before and after calibration on {calibration.texts:,} {calibration.split}: expected calibration error "
            f"{calibration.before.ece:.4f} before, {calibration.after.ece:.4f} after ({calibration.backend}, "
            f"{calibration.precision}). Scores after it come from maps that were fitted without their rows."
        )
    if scored := _scored(evaluation, calibration.after.floor if calibration else 0.0):
        scores, right = zip(*scored, strict=True)
        series[evaluation.source] = reliability_bins(np.array(scores, dtype=np.float64), np.array(right))
    if not series:
        return None
    return Section(
        name, title, words,
        plots=[reliability_plot(f"{name}-plot", "Score and share of right answers", series)],
        details=[
            Table(
                f"{name}-table-{number}", called, ["bin", "answers", "mean score", "right"],
                [[i, one.count, one.confidence, one.accuracy] for i, one in enumerate(bins, start=1)],
            )
            for number, (called, bins) in enumerate(series.items())
        ],
    )  # fmt: skip


def _scored(evaluation: Evaluation, floor: float) -> list[tuple[float, bool]]:
    """List scores of at least `floor`, and whether they were right: of answers, or of each label for each text."""
    if isinstance(evaluation.results[0], MultiLabelClassification):
        rows = zip(gold_of(evaluation.examples), evaluation.results, strict=True)
        scored = [(score, label in wanted) for wanted, result in rows for label, score in result.scores.items()]
    else:
        scored = [(one.score, one.kind == "right") for one in evaluation.answers if one.score is not None]
    return [(score, right) for score, right in scored if score >= floor]


def _numbers(evaluation: Evaluation, *, show_texts: bool) -> Section:
    """Show a regressor's numbers beside the right ones, and where they are farthest apart."""
    pairs = [
        (row, wanted, result.value)
        for row, (wanted, result) in enumerate(zip(gold_of(evaluation.examples), evaluation.results, strict=True))
    ]
    drawn = pairs
    if len(pairs) > MOST_POINTS:
        chosen = np.random.default_rng(0).choice(len(pairs), MOST_POINTS, replace=False)
        drawn = [pairs[row] for row in sorted(chosen)]
    points = [(one, other, f"row {row + 1:,}: wanted {one:.4g}, found {other:.4g}") for row, one, other in drawn]
    farthest = sorted(pairs, key=lambda one: -abs(one[1] - one[2]))[:MOST_SHOWN]
    words = [f"{len(drawn):,} of {len(pairs):,} numbers are drawn. A number on the dashed line is right."]
    if evaluation.results[0].low is not None:
        words.append(f"{len(evaluation.wrong):,} lie outside of their interval.")
    if not show_texts:
        words.append(HIDDEN)
    columns = ["row", "wanted", "found", "difference", *(["text"] if show_texts else [])]
    rows: list[list[Cell]] = [
        [row + 1, one, other, other - one, *([evaluation.examples[row].text] if show_texts else [])]
        for row, one, other in farthest
    ]
    caption = f"Numbers farthest from the right ones ({len(farthest):,} of {len(pairs):,})"
    return Section(
        "numbers", "Numbers", words, plots=[scatter_plot("numbers-plot", "Numbers found by numbers wanted", points)],
        tables=[Table("numbers-table", caption, columns, rows)],
    )  # fmt: skip


def _mistakes(evaluation: Evaluation, *, show_texts: bool) -> Section:
    wrong = sorted(
        (answer for answer in evaluation.answers if answer.kind != "right"), key=lambda answer: -answer.sureness
    )
    words = [
        f"{len(evaluation.wrong):,} of {len(evaluation.examples):,} texts have a mistake. Those that the model was "
        f"surest of come first. The number of a row counts the {evaluation.source} rows from 1."
    ]
    if not show_texts:
        words.append(HIDDEN)
    table = _answer_table("mistakes-table", "Most confident mistakes", evaluation, wrong, show_texts=show_texts)
    return Section("mistakes", "Most confident mistakes", words, tables=[table] if wrong else [])


def _suspects(evaluation: Evaluation, *, show_texts: bool) -> Section:
    suspects = evaluation.suspects
    words = [
        f"{len(suspects):,} of the mistakes are more likely errors of the labels, by confident learning (Northcutt, "
        "Jiang and Chuang 2021): the model is at least as sure of its answer as it is, on average, of texts that have "
        "that label. Worth a look by a person; meaningless on texts that the model was trained on."
    ]
    table = _answer_table("suspects-table", "Likely label errors", evaluation, suspects, show_texts=show_texts)
    return Section("suspects", "Likely label errors", words, tables=[table] if suspects else [])


def _answer_table(
    name: str, caption: str, evaluation: Evaluation, answers: Sequence[Answer], *, show_texts: bool
) -> Table:
    spans = any(answer.wanted_span or answer.found_span for answer in answers)
    several = any(answer.kind != "wrong" for answer in answers)
    columns = ["row", *(["error"] if several else []), "wanted", "found", "score"]
    columns += ["characters"] if spans else ["score of the wanted"]
    columns += ["text"] if show_texts else []
    if len(answers) > MOST_SHOWN:
        caption += f" ({MOST_SHOWN} of {len(answers):,})"
    rows: list[list[Cell]] = []
    for one in answers[:MOST_SHOWN]:
        said: list[Cell] = [one.kind] if several else []
        text: list[Cell] = [_marked(evaluation.examples[one.row], one)] if show_texts else []
        detail = _characters(one) if spans else one.wanted_score
        rows.append([one.row + 1, *said, _name(one.wanted), _name(one.found), one.score, detail, *text])
    return Table(name, caption, columns, rows)


def _characters(answer: Answer) -> str:
    """Say where the entity is, and where it was found if elsewhere."""
    said = [f"{start} to {end}" for start, end in dict.fromkeys(filter(None, (answer.wanted_span, answer.found_span)))]
    return ", found ".join(said)


def _marked(example: Example, answer: Answer) -> str:
    """Mark the entity in question, wanted and found taken together; show both texts of a pair."""
    if isinstance(example, PairExample):
        return f"{example.text} | {example.text_pair}"
    text = example.text
    asked = f"{example.question} | " if isinstance(example, QuestionExample) else ""
    spans = [span for span in (answer.wanted_span, answer.found_span) if span is not None]
    if not spans:
        return f"{asked}{text}"
    start, end = min(span[0] for span in spans), max(span[1] for span in spans)
    return Markup("{}{}<mark>{}</mark>{}").format(asked, text[:start], text[start:end], text[end:])


def _lengths(evaluation: Evaluation) -> Section:
    bins = length_bins(evaluation.lengths, evaluation.wrong)
    longer = sum(length > evaluation.room for length in evaluation.lengths)
    words = [
        f"In pieces of the tokenizer, special ones included. {longer:,} of {len(evaluation.lengths):,} texts are "
        f"longer than one window of {evaluation.room:,} and are read in several; none is cut."
    ]
    rows: list[list[Cell]] = [
        [one.range, one.right + one.wrong, one.wrong, one.wrong / max(1, one.right + one.wrong)] for one in bins
    ]
    return Section(
        "lengths", "Lengths", words,
        plots=[length_plot("lengths-plot", "Texts by length", bins)],
        details=[Table("lengths-table", "Texts by length", ["pieces", "texts", "with a mistake", "share"], rows)],
    )  # fmt: skip
