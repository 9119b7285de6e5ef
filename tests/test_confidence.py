"""Scores are probabilities, and what is accepted is as good as was asked."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langchain_core.runnables import ConfigurableField

from lc_finetune import Checkpoint, ConfigError, EntityTagger, TextClassifier
from lc_finetune.checkpoint import MANIFEST
from lc_finetune.cli import main
from lc_finetune.confidence import Beta, Isotonic, ScoreMap, calibration_table
from lc_finetune.inference import Predictor
from lc_finetune.inference.acceptance import NEVER, Aim, accept, lower_bound
from lc_finetune.inference.calibrate import (
    SpanEvidence,
    TextEvidence,
    TooFewAnswers,
    Way,
    calibrate,
    fit,
    record,
    served_ways,
)
from lc_finetune.inference.decode import Confidence
from lc_finetune.inference.fitting import fit_isotonic
from lc_finetune.inference.predictor import calibration_of
from lc_finetune.inference.reliability import expected_calibration_error, perfect_error
from lc_finetune.labels import Span
from lc_finetune.schemes import TagSet
from lc_finetune.testing import SENTENCES, tiny_checkpoint

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
LABELS = ("card", "cash", "other")


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 9))) for _ in range(count)]


def labels_as_likely_as_said(checkpoint: Checkpoint, texts: list[str], temperature: float) -> list[str]:
    """Draw right labels from the model's own probabilities, made flatter or sharper: then the right map is known."""
    random = np.random.default_rng(1)
    results = Predictor.load(checkpoint, device="cpu", backend="torch").predict(texts)
    logits = np.log([list(result.scores.values()) for result in results])
    probabilities = ScoreMap(temperature=temperature).of_labels(logits)
    return [str(random.choice(LABELS, p=row)) for row in probabilities]


@pytest.fixture(scope="module")
def rows() -> list[str]:
    return some_texts(600)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A classifier with an ONNX export."""
    return tiny_checkpoint(tmp_path_factory.mktemp("exported") / "c", onnx=True)


@pytest.fixture
def folder(exported: Checkpoint, tmp_path: Path) -> Path:
    """A copy of it, to calibrate."""
    return Path(shutil.copytree(exported.path, tmp_path / "c"))


@pytest.fixture(scope="module")
def labels(exported: Checkpoint, rows: list[str]) -> list[str]:
    return labels_as_likely_as_said(exported, rows, 0.5)


@pytest.fixture
def file(rows: list[str], labels: list[str], tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"text": t, "label": n}) for t, n in zip(rows, labels, strict=True)))
    return path


# Maps.

probability = st.floats(0.0, 1.0)
top_maps = st.one_of(
    st.builds(Beta, a=st.floats(0, 5), b=st.floats(0, 5), c=st.floats(-5, 5)),
    st.lists(st.tuples(probability, probability), min_size=1, max_size=5).map(
        lambda pairs: Isotonic(knots=tuple(zip(*map(sorted, zip(*pairs, strict=True)), strict=True)))
    ),
)


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=6),
    temperature=st.floats(0.05, 20),
    top=st.none() | top_maps,
)
def test_no_map_changes_the_answer(logits: list[float], temperature: float, top: Any) -> None:
    """Whatever the map, the most probable label stays so, and the probabilities sum to 1."""
    second, first = sorted(logits)[-2:]
    assume(first - second > 1e-3)
    mapped = ScoreMap(temperature=temperature, top=top).of_labels(np.array(logits))

    assert mapped.argmax() == np.argmax(logits)
    assert mapped.sum() == pytest.approx(1.0)
    assert ((mapped >= 0) & (mapped <= 1 + 1e-9)).all()


@given(low=probability, high=probability, top=top_maps)
def test_a_surer_span_stays_surer(low: float, high: float, top: Any) -> None:
    """The maps of spans never fall."""
    low, high = sorted((low, high))
    one, other = ScoreMap(top=top).of_spans(np.array([low, high]))

    assert 0 <= one <= other + 1e-9 <= 1 + 2e-9


def drawn(temperature: float, count: int = 2000) -> TextEvidence:
    """Logits, and right labels that are as likely as the logits say at a temperature."""
    random = np.random.default_rng(3)
    logits = random.normal(size=(count, 5)) * 3
    probabilities = ScoreMap(temperature=temperature).of_labels(logits)
    gold = np.array([random.choice(5, p=row) for row in probabilities])
    return TextEvidence(logits, gold, tuple("abcde"))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    """Scores that are too sure or not sure enough become true, by proper scores and by the calibration error."""
    map, before, after = fit(drawn(temperature))

    assert map.temperature == pytest.approx(temperature, rel=0.1)
    assert after.log_loss <= before.log_loss + 1e-9
    assert after.ece <= after.ece_perfect[1] * 1.5
    if temperature != 1.0:
        assert after.brier < before.brier
        assert before.ece > 3 * after.ece_perfect[1]


def test_spans_are_mapped_by_whether_the_whole_span_is_right() -> None:
    """Of entities that a tagger is 90 % sure of, half are right: they get 0.5."""
    random = np.random.default_rng(0)
    scores = random.uniform(0.5, 1.0, size=3000)
    right = random.random(3000) < (scores - 0.4) * 0.8
    map, before, after = fit(SpanEvidence(scores, right, np.array(["PER"] * 3000, dtype=object)))

    assert float(map.of_spans(np.array(0.9))) == pytest.approx(0.4, abs=0.05)
    assert after.log_loss < before.log_loss
    assert after.ece < 0.05 < before.ece


def test_few_rows_that_are_all_right_prove_no_certainty() -> None:
    """Ten right answers of ten leave doubt."""
    logits = np.tile(np.array([1.0, 0.0]), (10, 1))
    map, _, _ = fit(TextEvidence(logits, np.zeros(10, dtype=np.intp), ("a", "b")))

    assert 0.73 < map.of_labels(logits)[0, 0] < 0.999


def test_a_single_answer_is_too_few() -> None:
    """There is nothing to judge a map on."""
    with pytest.raises(TooFewAnswers, match="at least two"):
        fit(TextEvidence(np.zeros((1, 2)), np.zeros(1, dtype=np.intp), ("a", "b")))


# Figures.


def test_the_calibration_error_by_hand() -> None:
    """Two bins: |0.6 - 0.5| and |0.9 - 1.0|, of equal weight."""
    confidence, correct = np.array([0.9, 0.6, 0.9, 0.6]), np.array([True, True, True, False])

    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="as many scores"):
        expected_calibration_error(confidence, correct[:2])


def test_perfect_scores_show_an_error_too() -> None:
    """The less, the more answers there are."""
    few, many = (perfect_error(np.full(count, 0.8)) for count in (150, 15_000))

    assert 0 < many[0] < few[0] / 5
    assert few[0] < few[1]


# Acceptance.


@pytest.mark.parametrize(
    ("right", "of", "bound"), [(59, 59, 0.9505), (0, 10, 0.0), (95, 100, 0.8977), (10, 20, 0.3020)]
)
def test_bounds_of_clopper_and_pearson(right: int, of: int, bound: float) -> None:
    """As in tables: the share with which so many successes have a chance of 5 %."""
    assert float(lower_bound(right, of)) == pytest.approx(bound, abs=1e-4)


def answers(count: int, seed: int) -> tuple[Any, Any, Any]:
    """Scores that mean what they say, about 90 % of the answers right."""
    random = np.random.default_rng(seed)
    scores = 1 / (1 + np.exp(-random.normal(4.0, 2.6, size=count)))
    return scores, random.random(count) < scores, np.array(["card"] * count, dtype=object)


def test_the_precision_asked_for_is_kept() -> None:
    """In at most 5 % of many calibrations is the true precision below it, and most answers are accepted."""
    scores, right, _ = answers(200_000, seed=-1 % 2**32)
    aim, broken, coverage = Aim.parse("precision=0.95"), 0, []
    for seed in range(200):
        chosen = accept(aim, *answers(500, seed))
        taken = scores >= chosen.score
        broken += bool(right[taken].mean() < 0.95)
        coverage.append(taken.mean())

    assert broken <= 0.05 * 200 + 2 * np.sqrt(200 * 0.05 * 0.95)
    assert np.mean(coverage) > 0.78


def test_what_cannot_be_shown_is_said() -> None:
    """Thirty rows prove no 95 %: the best bound is given instead, and said to be less than what was asked."""
    chosen = accept(Aim.parse("precision=0.95"), *answers(30, seed=0))

    assert not chosen.reached
    assert chosen.precision_bound is not None
    assert 0.5 < chosen.precision_bound < 0.95


def test_scores_that_differ_in_the_last_digit_alone_have_a_map() -> None:
    """As those of a model that says of every text the same, rounding apart."""
    scores = 0.5 + np.arange(20) * 1e-16
    mapped = fit_isotonic(scores, np.arange(20) % 3 > 0)(scores)

    assert ((mapped > 0.3) & (mapped < 1)).all()


def test_a_coverage_is_kept() -> None:
    """At least so many further texts are accepted, in 95 % of calibrations, by a threshold as high as that allows."""
    many = np.sort(answers(200_000, seed=7)[0])
    shares = [
        1 - np.searchsorted(many, accept(Aim.parse("coverage=0.8"), *answers(400, seed)).score) / len(many)
        for seed in range(100)
    ]

    assert sum(share < 0.8 for share in shares) <= 9
    assert np.mean(shares) < 0.85


def test_scores_and_costs_are_taken_as_given() -> None:
    """A wrong answer that costs 20 referrals is risked from 95 % on; a label may have its own threshold, or cost."""
    scores, right = np.array([0.99, 0.9, 0.6, 0.3]), np.array([True, True, False, False])
    names = np.array(["card", "cash", "card", "cash"], dtype=object)
    cost = accept(Aim.parse("cost=20"), scores, right, names)
    costs = accept(Aim.parse("cost=2,cash=20"), scores, right, names)
    score = accept(Aim.parse("score=0.5,cash=0.95"), scores, right, names)

    assert cost.score == pytest.approx(0.95)
    assert (costs.of("card"), costs.of("cash")) == pytest.approx((0.5, 0.95))
    assert (costs.coverage, costs.precision) == (0.5, 0.5)
    assert (score.of("card"), score.of("cash")) == (0.5, 0.95)
    assert (score.coverage, score.precision) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ("precison=0.9", "did you mean 'precision'"),
        ("precision", "number"),
        ("precision=high", "number"),
        ("precision=95", "at most 1"),
        ("coverage=nan", "at most 1"),
        ("cost=0.5", "above 1"),
        ("cost=20,card=1", "above 1"),
        ("precision=0.9,card=0.5", "after score="),
        ("score=0.5,card=2", "card of 0 to at most 1"),
        ("score=0.5,card=0.7,card=0.8", "'card' twice"),
        ("score=0.5,=0.7", "one without a label"),
        ("score=0.5,", "one without a label"),
    ],
)
def test_a_mistyped_aim_is_one_clear_error(asked: str, named: str) -> None:
    """What was expected, and what was found."""
    with pytest.raises(ConfigError, match=named):
        Aim.parse(asked)


# A folder.


def test_a_blank_text_is_not_accepted_in_calibration_either(folder: Path, rows: list[str]) -> None:
    """As it never is when the checkpoint serves: what is promised of the coverage counts it as refused."""
    texts = [*rows[:20], *[" "] * 20]
    aim, way = Aim.parse("score=0.01"), Way("torch", "cpu", "float32")
    made = calibrate(Checkpoint.load(folder), texts, ["card"] * 40, split="rows", aim=aim, way=way)

    assert made.acceptance is not None
    assert made.acceptance.coverage == 0.5


def test_a_folder_that_cannot_be_written_is_one_line(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And stays as it is."""

    def full(path: Path, text: str, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = (folder / MANIFEST).read_bytes()
    monkeypatch.setattr("lc_finetune.checkpoint.write_text_atomically", full)

    assert main(["calibrate", str(folder), str(file)]) == 2
    said = capsys.readouterr().err
    assert "folder that can be written to, found: No space left on device" in said
    assert said.count("\n") == 1
    assert (folder / MANIFEST).read_bytes() == before


def test_a_folder_is_calibrated(folder: Path, file: Path, rows: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One command: true scores and `accepted` from then on, the same labels, a folder as valid as before."""
    before = TextClassifier.from_checkpoint(folder, device="cpu").batch(rows[:50])
    status = main(["calibrate", str(folder), str(file), "--accept", "coverage=0.7"])
    printed = capsys.readouterr().out
    checkpoint = Checkpoint.load(folder)
    after = TextClassifier.from_checkpoint(folder, device="cpu").batch([*rows[:50], " "])

    assert status == 0
    assert checkpoint.manifest is not None
    assert [(one.backend, one.precision) for one in checkpoint.manifest.calibration] == [
        ("torch", "float32"),
        ("onnx", "float32"),
    ]
    assert all(one.map.temperature == pytest.approx(0.5, rel=0.25) for one in checkpoint.manifest.calibration)
    assert "600 rows of rows.jsonl" in printed
    assert "score before" in printed
    assert [one.label for one in before] == [one.label for one in after[:50]]
    assert {one.accepted for one in before} == {None}
    assert {one.accepted for one in after[:50]} == {True, False}
    assert after[50].accepted is False
    assert Predictor.load(checkpoint, device="cpu").backend.name == "onnx"


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_each_backend_serves_its_own_calibration(
    exported: Checkpoint, folder: Path, rows: list[str], labels: list[str], backend: Any
) -> None:
    """The threshold is the record's, and every way to call gives the same."""
    checkpoint = Checkpoint.load(folder)
    aim = Aim.parse("score=0.5")
    made = [
        calibrate(checkpoint, rows, labels, split="rows", aim=aim, way=way).model_copy(
            update={"map": ScoreMap(temperature=3.0 if way.backend == "torch" else 0.3)}
        )
        for way in served_ways(checkpoint)
    ]
    served = TextClassifier.from_checkpoint(record(checkpoint, made), device="cpu", backend=backend)
    result = served.invoke(rows[0])
    raw = TextClassifier.from_checkpoint(exported, device="cpu", backend=backend).invoke(rows[0])

    assert result.score is not None
    assert result.accepted == (result.score >= 0.5)
    assert [result] == served.batch([rows[0]])
    assert raw.score is not None
    assert (result.score < raw.score) == (backend == "torch")


def test_calibrating_twice_is_calibrating_once(folder: Path, file: Path) -> None:
    """The model's own scores are what is mapped, not what an earlier map made of them."""
    assert main(["calibrate", str(folder), str(file)]) == 0
    once = (folder / MANIFEST).read_text()
    assert main(["calibrate", str(folder), str(file)]) == 0

    assert once == (folder / MANIFEST).read_text()


def test_a_plain_folder_becomes_a_calibrated_one(folder: Path, file: Path, rows: list[str]) -> None:
    """Its card keeps what was in it; its texts are still read in the same windows."""
    (folder / MANIFEST).unlink()
    (folder / "README.md").write_text("# Mine\n\nWords.\n\n## Confidence\n\nOld.\n\n## License\n\nMIT\n")
    before = TextClassifier.from_checkpoint(folder, device="cpu", backend="torch").batch([*rows[:20], rows[0] * 60])
    assert main(["calibrate", str(folder), str(file)]) == 0
    after = TextClassifier.from_checkpoint(folder, device="cpu", backend="torch").batch([*rows[:20], rows[0] * 60])
    card = (folder / "README.md").read_text()

    assert [one.label for one in before] == [one.label for one in after]
    assert None not in {one.accepted for one in after}
    assert card.startswith("# Mine\n\nWords.\n")
    assert card.endswith("## License\n\nMIT\n")
    assert "ECE" in card
    assert "Old." not in card


def test_a_tagger_is_calibrated_by_entity(tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """A score is the chance that the whole span is right; each entity is accepted or not."""
    folder = Path(shutil.copytree(tiny_tagger.path, tmp_path / "c"))
    texts = some_texts(120)
    found = EntityTagger.from_checkpoint(folder, device="cpu").batch(texts)
    random = np.random.default_rng(0)
    lines = [
        {
            "text": text,
            "entities": [
                {"start": e.start, "end": e.end, "label": e.label} for e in one.entities if random.random() < e.score
            ],
        }
        for text, one in zip(texts, found, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status = main(["calibrate", str(folder), str(tmp_path / "rows.jsonl"), "--accept", "coverage=0.5"])
    after = EntityTagger.from_checkpoint(folder, device="cpu").batch(texts)
    share = np.mean([entity.score for one in after for entity in one.entities])
    manifest = Checkpoint.load(folder).manifest

    assert status == 0
    assert manifest is not None
    assert manifest.calibration[0].after.accuracy == pytest.approx(share, abs=0.03)
    assert {True, False} == {entity.accepted for one in after for entity in one.entities}
    assert [[(e.start, e.end) for e in one.entities] for one in found] == [
        [(e.start, e.end) for e in one.entities] for one in after
    ]


def test_few_rows_are_said_to_show_little(exported: Checkpoint, rows: list[str], labels: list[str]) -> None:
    """With the interval."""
    made = calibrate(
        exported, rows[:60], labels[:60], split="rows", aim=Aim.parse("precision=0.95"),
        way=Way("torch", "cpu", "float32"),
    )  # fmt: skip

    assert "fewer than 200 show little" in calibration_table(made)
    assert "95 % interval" in calibration_table(made)
    assert "cannot be shown" in calibration_table(made)


@pytest.mark.parametrize(
    ("content", "more", "named"),
    [
        ("text,label\na,card\nb,nonsense\n", [], "1 that it lacks: nonsense"),
        ("text,label\na,card\nb,cash\n", ["--accept", "score=1"], "none has more than"),
        ("text,label\na,card\nb,cash\n", ["--accept", "precision"], "a number"),
        ("text,label\na,card\nb,cash\n", ["--accept", "score=0.5, crad=0.9"], "did you mean 'card'"),
        ("text,label\na,card\n", [], "at least two"),
        ("text,shade\na,card\n", [], "label"),
    ],
)
def test_a_mistake_leaves_the_folder_as_it_was(
    content: str, more: list[str], named: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, status 2."""
    (tmp_path / "rows.csv").write_text(content)
    before = (folder / MANIFEST).read_bytes()
    status = main(["calibrate", str(folder), str(tmp_path / "rows.csv"), *more])
    said = capsys.readouterr().err

    assert status == 2
    assert named in said
    assert said.count("\n") == 1
    assert before == (folder / MANIFEST).read_bytes()


def test_rows_of_another_task_are_refused(
    tiny_tagger: Checkpoint, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels calibrate no tagger."""
    assert main(["calibrate", str(tiny_tagger.path), str(file)]) == 2
    assert "expected rows for token-classification" in capsys.readouterr().err


def test_an_export_says_what_its_scores_are_worth(folder: Path, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing, torch's calibration, or one of its own, by the rows at hand."""
    asked = ["export", str(folder), "--format", "onnx", "--precision", "fp16"]
    assert main(asked) == 0
    assert "uncalibrated" in capsys.readouterr().out
    shutil.rmtree(folder / "onnx-fp16")
    assert main(["calibrate", str(folder), str(file), "--accept", "coverage=0.7"]) == 0
    assert main(asked) == 0
    assert "torch's calibration" in capsys.readouterr().out
    assert main([*asked, "--calibration-file", str(file)]) == 0
    assert "Confidence, onnx in float16 (600 rows of rows.jsonl)" in capsys.readouterr().out
    manifest = Checkpoint.load(folder).manifest
    assert manifest is not None
    assert {"coverage=0.7"} == {one.acceptance.asked for one in manifest.calibration if one.acceptance}


# Which calibration holds.


class Served:
    """A backend by its name."""

    def __init__(self, name: str, precision: str) -> None:
        self.name, self.precision = name, precision

    def forward(self, batch: Any) -> Any:
        """Not called."""
        raise NotImplementedError


def test_rounded_precisions_share_torchs_calibration(folder: Path, rows: list[str], labels: list[str]) -> None:
    """int8, a forced export, and other weights have none unless it is their own."""
    checkpoint = Checkpoint.load(folder)
    made = calibrate(
        checkpoint, rows, labels, split="rows", aim=Aim.parse("score=0.5"), way=Way("torch", "cpu", "float32")
    )
    checkpoint = record(checkpoint, [made])

    assert calibration_of(checkpoint, Served("torch", "bfloat16"), "") == made
    assert calibration_of(checkpoint, Served("onnx", "float32"), "digest") == made
    assert calibration_of(checkpoint, Served("onnx", "int8"), "digest") is None
    manifest = json.loads((folder / "onnx" / "export.json").read_text())
    (folder / "onnx" / "export.json").write_text(json.dumps({**manifest, "forced": True}))
    assert calibration_of(checkpoint, Served("onnx", "float32"), "digest") is None
    other = record(checkpoint, [made.model_copy(update={"model": "of other weights"})])
    assert calibration_of(other, Served("torch", "float32"), "") is None


# Thresholds of the caller's own.


def test_a_threshold_of_ones_own_wins(folder: Path, file: Path, rows: list[str]) -> None:
    """At load, without a calibration too; a blank text is accepted at no threshold."""
    uncalibrated = TextClassifier.from_checkpoint(folder, device="cpu", accept_score=0.0)
    assert [one.accepted for one in uncalibrated.batch([rows[0], ""])] == [True, False]
    assert main(["calibrate", str(folder), str(file)]) == 0
    strict = TextClassifier.from_checkpoint(folder, device="cpu", accept_score=1.0)
    assert {False} == {one.accepted for one in strict.batch(rows[:20])}


async def test_a_threshold_can_be_given_per_call(folder: Path, rows: list[str]) -> None:
    """By a configurable field, without a reload."""
    classifier = TextClassifier.from_checkpoint(folder, device="cpu")
    configurable = classifier.configurable_fields(accept_score=ConfigurableField(id="accept_score"))
    lax, strict = ({"configurable": {"accept_score": score}} for score in (0.0, 1.0))

    assert configurable.invoke(rows[0], lax).accepted is True
    assert (await configurable.ainvoke(rows[0], strict)).accepted is False
    assert configurable.invoke(rows[0]).accepted is None
    rebuilt = classifier.model_copy(update={"accept_score": 0.5})
    assert rebuilt._loaded() is classifier._loaded()


def test_a_threshold_judges_entities_one_by_one(tiny_tagger: Checkpoint) -> None:
    """Each by its score."""
    tagger = EntityTagger.from_checkpoint(tiny_tagger, device="cpu")
    scores = sorted(entity.score for one in tagger.batch(list(SENTENCES)) for entity in one.entities)
    middle = scores[len(scores) // 2]
    judged = EntityTagger.from_checkpoint(tiny_tagger, device="cpu", accept_score=middle).batch(list(SENTENCES))

    assert all(entity.accepted == (entity.score >= middle) for one in judged for entity in one.entities)
    assert {True, False} == {entity.accepted for one in judged for entity in one.entities}


def test_without_thresholds_nothing_is_said() -> None:
    """None, but False for a blank text."""
    assert [Confidence().accepts(text, "card", 0.9) for text in ("card", "\n")] == [None, False]


def test_gold_spans_count_only_as_a_whole() -> None:
    """Label, start and end."""
    from lc_finetune.inference.calibrate import evidence_of
    from lc_finetune.schemas import Entity, Tagging

    found = Tagging(text="Ann in Oslo", entities=tuple(
        Entity(label=label, text="Ann in Oslo"[start:end], start=start, end=end, score=0.5)
        for label, start, end in (("PER", 0, 3), ("PER", 7, 11))
    ))  # fmt: skip
    evidence = evidence_of(
        [found], [(Span(0, 3, "PER"), Span(7, 11, "LOC"))], TagSet.of_types(["LOC", "PER"]).labels.names
    )

    assert list(evidence.right) == [True, False]


@pytest.mark.parametrize("asked", ["precision=0.5", "coverage=0.9", "score=0.2"])
def test_what_is_never_accepted_counts_in_no_promise(asked: str) -> None:
    """One answer in five is out of scope: no threshold reaches it, and the coverage says so."""
    scores = np.linspace(0.3, 1.0, 1000)
    scores[::5] = NEVER
    acceptance = accept(Aim.parse(asked), scores, np.ones(1000, dtype=bool), np.full(1000, "x"))

    assert acceptance.score >= 0
    assert acceptance.coverage == pytest.approx(0.8)
    assert acceptance.reached == (asked != "coverage=0.9")


def test_a_tagger_is_not_calibrated_on_labels_that_it_lacks(tiny_tagger: Checkpoint) -> None:
    """They would count as errors of the model and ruin its scores."""
    texts = some_texts(20)
    with pytest.raises(ConfigError, match="labels of the model, found 1 that it lacks: NOBODY"):
        calibrate(
            tiny_tagger, texts, [(Span(0, 1, "NOBODY"),)] * len(texts), split="rows", aim=Aim.parse("score=0.5"),
            way=Way("torch", "cpu", "float32"),
        )  # fmt: skip


def test_a_card_that_cannot_be_read_stops_before_anything_is_written(
    folder: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, and the manifest as it was."""
    (folder / "README.md").write_bytes(b"Mod\xe8le\n")
    before = (folder / MANIFEST).read_bytes()

    assert main(["calibrate", str(folder), str(file)]) == 2
    assert "expected a card in UTF-8" in capsys.readouterr().err
    assert (folder / MANIFEST).read_bytes() == before
