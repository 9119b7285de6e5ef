"""Scores of several labels a text are probabilities, each label's by a map of its own, and no answer changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_finetune import Checkpoint, CheckpointError, MultiLabelClassifier
from lc_finetune.checkpoint import MANIFEST
from lc_finetune.cli import main
from lc_finetune.confidence import Beta, ScoreMap, calibration_table
from lc_finetune.inference.acceptance import NEVER, Aim, accept
from lc_finetune.inference.calibrate import LabelEvidence, fit
from lc_finetune.inference.decode import Confidence, decode_labels, sigmoid
from lc_finetune.inference.fitting import fit_beta
from lc_finetune.inference.reliability import judged_pairs, reliability_of_pairs
from lc_finetune.labels import LabelSet
from lc_finetune.testing import SENTENCES, tiny_checkpoint

LABELS = ("card", "cash", "other")
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
COVERING = Aim.parse("coverage=0.5")


def drawn(texts: int, slopes: list[float], shifts: list[float], *, often: float = -1.0) -> LabelEvidence:
    """Labels that apply as often as their true logits say; the scores are those logits, stretched and moved."""
    random = np.random.default_rng(5)
    true = often + 2 * random.normal(size=(texts, len(slopes)))
    gold = random.random(true.shape) < sigmoid(true)
    scores = sigmoid(true * np.array(slopes) + np.array(shifts))
    return LabelEvidence(scores, gold, scores >= 0.5, tuple(f"l{i}" for i in range(len(slopes))))


# Maps.


def test_each_label_gets_the_map_that_it_needs() -> None:
    """One is too sure, one not sure enough, one too high: all become true, by proper scores and by the error."""
    evidence = drawn(3000, [2.0, 0.5, 1.0], [0.0, 0.0, 1.5])
    map, before, after = fit(evidence)
    mapped = map.of_each(evidence.scores)

    assert map.method == "beta per label"
    assert mapped.mean(axis=0) == pytest.approx(evidence.gold.mean(axis=0), abs=0.01)
    assert after.log_loss < before.log_loss - 0.02
    assert after.brier < before.brier
    assert after.ece < after.ece_perfect[1] * 1.5 < before.ece


def test_labels_that_need_the_same_map_share_it() -> None:
    """With few rows, a map for each would only fit their noise."""
    map, _, _ = fit(drawn(80, [2.0] * 8, [0.0] * 8))

    assert map.method == "beta, one for all labels"
    assert len(map.per_label) == 8


def test_true_scores_stay_as_they_are() -> None:
    """No map is the simplest one."""
    scores = np.random.default_rng(0).uniform(size=(400, 1))
    gold = np.random.default_rng(1).random((400, 1)) < scores

    assert fit(LabelEvidence(scores, gold, scores > 0.5, ("a",)))[0] == ScoreMap()


def test_few_rows_keep_to_the_shared_map() -> None:
    """A label with three rows stays near it, one with thousands goes its own way."""
    shared, random = Beta(a=1.0, b=1.0, c=0.0), np.random.default_rng(0)
    scores = random.uniform(0.3, 0.7, size=4000)
    none_of_them = np.zeros(4000, dtype=bool)
    few, many = (fit_beta(scores[:n], none_of_them[:n], around=shared, spread=0.2) for n in (3, 4000))

    assert float(few(np.array(0.5))) == pytest.approx(0.5, abs=0.05)
    assert float(many(np.array(0.5))) < 0.05


curves = st.builds(Beta, a=st.floats(0, 5), b=st.floats(0, 5), c=st.floats(-5, 5))


@given(logits=st.lists(st.floats(-50, 50), min_size=3, max_size=3), maps=st.lists(curves, min_size=3, max_size=3))
def test_no_map_changes_which_labels_are_given(logits: list[float], maps: list[Beta]) -> None:
    """Thresholds are on the model's own scores; the probabilities follow the maps, label by label."""
    names, thresholds = LabelSet(("b", "a", "c")), np.array([0.2, 0.5, 0.9])
    confidence = Confidence(ScoreMap(per_label=dict(zip(names.names, maps, strict=True))))
    own = decode_labels("x", np.array(logits), names, thresholds)
    mapped = decode_labels("x", np.array(logits), names, thresholds, confidence)

    assert own.labels == mapped.labels
    assert list(mapped.scores.values()) == pytest.approx(
        [float(map(np.array(score))) for map, score in zip(maps, own.scores.values(), strict=True)]
    )


@given(low=st.floats(0, 1), high=st.floats(0, 1), map=curves)
def test_a_surer_label_stays_surer(low: float, high: float, map: Beta) -> None:
    """From one text to the next, the maps of labels never fall."""
    low, high = sorted((low, high))
    (one,), (other,) = ScoreMap(per_label={"a": map}).of_each(np.array([[low], [high]]))

    assert 0 <= one <= other + 1e-12 <= 1 + 1e-11


# Figures.


def test_pairs_are_judged_from_a_tenth_on() -> None:
    """By hand: of four pairs two are judged, both off by 0.4; the proper scores are of all."""
    scores = np.array([[0.6, 0.05], [0.09, 0.4]])
    applies = np.array([[True, False], [False, False]])
    found = reliability_of_pairs(scores, applies, squared_errors=scores, log_losses=scores)

    assert (found.unit, found.floor, found.count) == ("pair", 0.1, 2)
    assert found.ece == pytest.approx(0.4)
    assert found.brier == pytest.approx(scores.mean())
    assert found.accuracy == 0.5


def test_where_every_score_is_low_all_pairs_are_judged() -> None:
    """And the record says so."""
    low = np.full((4, 2), 0.01)
    found = reliability_of_pairs(low, low > 1, squared_errors=low, log_losses=low)

    assert (found.floor, found.count) == (0.0, 8)
    assert judged_pairs(low)[0].all()


def test_pairs_of_one_text_are_drawn_together() -> None:
    """Thirty labels that err together are no thirty observations: the interval is wider than that of single ones."""
    random = np.random.default_rng(0)
    together = np.repeat(random.random((100, 1)) < 0.5, 30, axis=1)
    apart = random.random((100, 30)) < 0.5
    scores = np.full((100, 30), 0.5)
    (low, high), (lower, higher) = (
        reliability_of_pairs(scores, applies, squared_errors=scores, log_losses=scores).ece_interval
        for applies in (together, apart)
    )

    assert high - low > 2 * (higher - lower)


# Acceptance.


def test_an_answer_is_right_if_no_label_it_gives_is_wrong() -> None:
    """Its score is that of the label farthest below its threshold; an answer without labels is never accepted."""
    evidence = LabelEvidence(
        scores=np.array([[0.9, 0.6, 0.1], [0.9, 0.8, 0.2], [0.1, 0.2, 0.3]]),
        gold=np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool),
        given=np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=bool),
        names=("a", "b", "c"),
    )
    plain = evidence.verdicts(ScoreMap(), Aim.parse("score=0.5"))
    own = evidence.verdicts(ScoreMap(), Aim.parse("score=0.5,a=0.95"))

    assert plain.scores.tolist() == [0.6, 0.8, NEVER]
    assert plain.right.tolist() == [True, False, True]
    assert plain.labels[:2].tolist() == ["b", "b"]
    assert own.scores.tolist() == [0.9, 0.9, NEVER]
    assert accept(Aim.parse("score=0.5,a=0.95"), *own).coverage == 0
    assert accept(Aim.parse("score=0.5"), *plain).precision == 0.5


def test_the_precision_asked_for_is_kept() -> None:
    """Of many calibrations, at most 5 % accept answers of which fewer than asked are right."""
    random, aim, broken, taken = np.random.default_rng(2), Aim.parse("precision=0.8"), 0, []
    truth = 5 * random.normal(size=(60_000, 4)) - 2
    applies, scores = random.random(truth.shape) < sigmoid(truth), sigmoid(truth)
    everything = LabelEvidence(scores, applies, scores >= 0.5, tuple("abcd"))
    judged = everything.verdicts(ScoreMap(), aim)
    for _ in range(100):
        rows = random.integers(len(truth), size=500)
        chosen = accept(aim, *everything.part(rows).verdicts(ScoreMap(), aim))
        if chosen.reached:
            accepted = judged.scores >= chosen.score
            taken.append(accepted.mean())
            broken += bool(judged.right[accepted].mean() < 0.8)

    assert len(taken) > 20
    assert broken <= 0.05 * 100 + 2 * np.sqrt(100 * 0.05 * 0.95)


# A folder.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A multi-label classifier with an ONNX export."""
    return tiny_checkpoint(
        tmp_path_factory.mktemp("exported") / "c", task="multi-label-classification", onnx=True,
        thresholds={"card": 0.4, "cash": 0.45, "other": 0.5},
    )  # fmt: skip


@pytest.fixture
def folder(exported: Checkpoint, tmp_path: Path) -> Path:
    """A copy of it, to calibrate."""
    return Path(shutil.copytree(exported.path, tmp_path / "c"))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 9))) for _ in range(400)]


@pytest.fixture
def file(exported: Checkpoint, texts: list[str], tmp_path: Path) -> Path:
    """Rows whose labels are rarer than the model says."""
    random = np.random.default_rng(1)
    results = MultiLabelClassifier.from_checkpoint(exported, device="cpu", backend="torch").batch(texts)
    rows = [
        {"text": text, "labels": [name for name, score in one.scores.items() if random.random() < score / 2]}
        for text, one in zip(texts, results, strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "rows.jsonl"


def test_a_folder_is_calibrated(folder: Path, file: Path, texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One command: true scores and `accepted` from then on, on each backend, and the same labels as before."""
    before = MultiLabelClassifier.from_checkpoint(folder, device="cpu").batch(texts)
    status = main(["calibrate", str(folder), str(file), "--accept", "coverage=0.5"])
    printed = capsys.readouterr().out
    manifest = Checkpoint.load(folder).manifest
    after = MultiLabelClassifier.from_checkpoint(folder, device="cpu").batch([*texts, " "])
    halves = np.mean([list(one.scores.values()) for one in before], axis=0) / 2

    assert status == 0
    assert manifest is not None
    assert [(one.backend, one.after.unit) for one in manifest.calibration] == [("torch", "pair"), ("onnx", "pair")]
    assert "pairs of a text and a label with a score of at least 0.1" in printed
    assert "right in each label given" in printed
    assert [one.labels for one in before] == [one.labels for one in after[:-1]]
    assert np.mean([list(one.scores.values()) for one in after[:-1]], axis=0) == pytest.approx(halves, abs=0.06)
    assert {one.accepted for one in before} == {None}
    assert {one.accepted for one in after[:-1]} == {True, False}
    assert all(one.accepted is False for one in after if not one.labels)
    assert after[-1].accepted is False


def test_a_plain_folder_is_calibrated_too(folder: Path, file: Path, texts: list[str]) -> None:
    """Its labels are given from one half on, as before."""
    (folder / MANIFEST).unlink()
    before = MultiLabelClassifier.from_checkpoint(folder, device="cpu", backend="torch").batch(texts[:20])
    assert main(["calibrate", str(folder), str(file)]) == 0
    after = MultiLabelClassifier.from_checkpoint(folder, device="cpu", backend="torch").batch(texts[:20])

    assert [one.labels for one in before] == [one.labels for one in after]
    assert None not in {one.accepted for one in after}


@pytest.mark.slow
def test_calibrating_twice_is_calibrating_once(folder: Path, file: Path) -> None:
    """The model's own scores are what is mapped."""
    assert main(["calibrate", str(folder), str(file)]) == 0
    once = (folder / MANIFEST).read_text()
    assert main(["calibrate", str(folder), str(file)]) == 0

    assert once == (folder / MANIFEST).read_text()


@pytest.mark.parametrize(
    ("row", "more", "named"),
    [
        ({"text": "a", "labels": ["card", "nonsense"]}, [], "1 that it lacks: nonsense"),
        ({"text": "a", "labels": ["card"]}, [], "at least two"),
        ({"text": "a", "labels": ["card"]}, ["--accept", "score=0.5,crad=0.9"], "did you mean 'card'"),
    ],
)
def test_a_mistake_leaves_the_folder_as_it_was(
    row: dict[str, Any], more: list[str], named: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, status 2."""
    (tmp_path / "one.jsonl").write_text(json.dumps(row))
    before = (folder / MANIFEST).read_bytes()

    assert main(["calibrate", str(folder), str(tmp_path / "one.jsonl"), *more]) == 2
    assert named in capsys.readouterr().err
    assert before == (folder / MANIFEST).read_bytes()


def test_maps_for_other_labels_are_refused(folder: Path, file: Path) -> None:
    """They would be applied by position; the manifest was altered."""
    assert main(["calibrate", str(folder), str(file)]) == 0
    manifest = json.loads((folder / MANIFEST).read_text())
    maps = manifest["calibration"][0]["map"]["per_label"]
    manifest["calibration"][0]["map"]["per_label"] = dict(reversed(maps.items()))
    (folder / MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(CheckpointError, match="a map for each of 3 labels in their order"):
        Checkpoint.load(folder)


def test_the_diagram_has_the_counts_of_both(folder: Path, file: Path) -> None:
    """Fewer pairs reach a tenth once the scores are lower."""
    assert main(["calibrate", str(folder), str(file)]) == 0
    manifest = Checkpoint.load(folder).manifest
    assert manifest is not None
    record = manifest.calibration[0]
    rows = calibration_table(record).splitlines()[-15:]

    assert [int(row.split()[0]) for row in rows] == [bin.count for bin in record.before.bins]
    assert all(
        f"{bin.confidence:.3f} → {bin.accuracy:.3f}" in row for row, bin in zip(rows, record.after.bins, strict=True)
    )


def test_rare_labels_leave_little_to_accept() -> None:
    """Where no label is given to any text nothing can be accepted, and that is said, not an error."""
    scores = np.full((50, 2), 0.2)
    evidence = LabelEvidence(scores, scores > 1, scores > 1, ("a", "b"))
    found = accept(COVERING, *evidence.verdicts(ScoreMap(), COVERING))

    assert (found.coverage, found.precision, found.reached) == (0.0, None, False)
