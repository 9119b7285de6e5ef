"""Sets of labels hold the right one as often as asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.load import dumps, loads
from langchain_core.runnables import ConfigurableField
from pydantic import ValidationError

from lc_finetune import Checkpoint, Classification, ConfigError, OrdinalClassifier, PairClassifier, TextClassifier
from lc_finetune.checkpoint import MANIFEST
from lc_finetune.cli import main
from lc_finetune.confidence import PredictionSets, ScoreMap, SetLevel
from lc_finetune.inference.conformal import prediction_sets
from lc_finetune.inference.decode import prediction_set
from lc_finetune.labels import LabelSet
from lc_finetune.testing import SENTENCES, tiny_checkpoint

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
NAMES = LabelSet(tuple("abcde"))


def drawn(rows: int, seed: int, *, temperature: float = 1.0) -> tuple[Any, Any, Any]:
    """Logits of five labels, their probabilities, each `(rows, 5)`, and right labels; off by a temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 5)) * 2
    odds = ScoreMap(temperature=temperature).of_labels(logits)
    gold = np.minimum((odds.cumsum(axis=1) < random.random((rows, 1))).sum(axis=1), 4)
    return logits, odds, gold


def held(sets: PredictionSets, logits: Any, coverage: float) -> list[tuple[str, ...]]:
    return [prediction_set(row, NAMES, sets.level(coverage)) for row in logits]


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.955])
@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_the_right_label_is_held_as_often_as_asked(coverage: float, temperature: float) -> None:
    """On average over calibrations, whether the model is too sure or not sure enough, and hardly more often."""
    logits, odds, _ = drawn(5000, seed=1000, temperature=temperature)
    scores = ScoreMap().of_labels(logits)
    best = scores == scores.max(axis=1, keepdims=True)
    shares = []
    for seed in range(200):
        known, _, right = drawn(200, seed, temperature=temperature)
        level = prediction_sets(ScoreMap().of_labels(known), right).level(coverage)
        assert level is not None
        shares.append(odds[best | (scores >= level.score)].sum() / len(odds))
    accuracy = odds[best].sum() / len(odds)

    assert np.mean(shares) >= coverage - 0.008
    assert np.mean(shares) <= max(accuracy, coverage + 0.005 + 1 / 201) + 0.008


def test_sets_are_never_empty_and_grow_with_the_coverage() -> None:
    """The most probable label comes first; what holds for one coverage is within what holds for a higher one."""
    logits, _, gold = drawn(300, seed=1)
    sets = prediction_sets(ScoreMap().of_labels(logits), gold)
    small, large = held(sets, logits, 0.6), held(sets, logits, 0.95)

    assert all(one[0] == NAMES[int(row.argmax())] for one, row in zip(small, logits, strict=True))
    assert all(set(one) <= set(other) for one, other in zip(small, large, strict=True))
    assert np.mean([len(one) for one in small]) < np.mean([len(one) for one in large])


def test_the_levels_by_hand() -> None:
    """Nine right labels: of ten places the fifth highest score shows one half, the lowest 90 %, none more."""
    scores = np.array([[0.9, 0.1]] * 5 + [[0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.55, 0.45]])
    gold = np.array([0] * 5 + [1] * 4)
    sets = prediction_sets(scores, gold)

    assert [(level.coverage, round(level.score, 5)) for level in sets.levels] == [
        (0.5, 1.0), (0.6, 0.45), (0.7, 0.4), (0.8, 0.3), (0.9, 0.2),
    ]  # fmt: skip
    assert [level.size for level in sets.levels] == [1.0, *(1 + k / 9 for k in (1, 2, 3, 4))]
    assert sets.level(0.55) == sets.levels[1]
    assert sets.level(0.91) is None


def test_a_coverage_that_the_rows_cannot_show_takes_all_labels() -> None:
    """As nine rows show no 95 %: only the set of all labels is sure to hold the right one."""
    logits, _, gold = drawn(9, seed=0)
    sets = prediction_sets(ScoreMap().of_labels(logits), gold)

    assert {frozenset("abcde")} == {frozenset(one) for one in held(sets, logits, 0.95)}


@given(st.lists(st.floats(-30, 30), min_size=5, max_size=5), st.floats(0, 1))
def test_a_set_is_every_label_with_the_score(logits: list[float], score: float) -> None:
    """In the order of the scores."""
    found = prediction_set(np.array(logits), NAMES, SetLevel(coverage=0.9, score=score, size=1))
    own = ScoreMap().of_labels(np.array(logits))

    assert set(found) == {NAMES[i] for i in range(5) if own[i] >= score} | {NAMES[int(np.argmax(logits))]}
    assert [own[NAMES.id_of[name]] for name in found] == sorted(
        (own[NAMES.id_of[name]] for name in found), reverse=True
    )


# A folder.


@pytest.fixture(scope="module")
def texts() -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, size=random.integers(1, 9))) for _ in range(600)]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A checkpoint with an export, calibrated on 300 texts; the right label is as likely as the model says."""
    folder = tmp_path_factory.mktemp("calibrated")
    checkpoint = tiny_checkpoint(folder / "c", onnx=True)
    rows = [{"text": text, "label": label} for text, label in right_labels(checkpoint, texts[:300])]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["calibrate", str(checkpoint.path), str(folder / "rows.jsonl")]) == 0
    return checkpoint.path


def right_labels(checkpoint: Checkpoint, texts: list[str]) -> list[tuple[str, str]]:
    random = np.random.default_rng(len(texts))
    results = TextClassifier.from_checkpoint(checkpoint, device="cpu", backend="torch").batch(texts)
    odds = [np.array(list(one.scores.values())) for one in results]
    labels = [random.choice(list(one.scores), p=p / p.sum()) for one, p in zip(results, odds, strict=True)]
    return [(text, str(label)) for text, label in zip(texts, labels, strict=True)]


@pytest.mark.parametrize("backend", ["torch", "onnx"])
async def test_every_way_to_call_gives_the_same_sets(calibrated: Path, texts: list[str], backend: Any) -> None:
    """For each result one, and nothing else of the result changes."""
    plain = TextClassifier.from_checkpoint(calibrated, device="cpu", backend=backend)
    asking = TextClassifier.from_checkpoint(calibrated, device="cpu", backend=backend, coverage=0.9)
    results = asking.batch(texts[:40])

    assert results == await asking.abatch(texts[:40])
    assert results[0].prediction_set == asking.invoke(texts[0]).prediction_set
    assert all(one.prediction_set and one.prediction_set[0] == one.label for one in results)
    assert [one.model_copy(update={"prediction_set": None}) for one in results] == plain.batch(texts[:40])
    assert asking._loaded() is plain._loaded()


def test_the_coverage_is_kept_on_further_texts(calibrated: Path, texts: list[str]) -> None:
    """Through the path that serves; a set is a part of the labels for some texts at least."""
    further = texts[300:]
    unmapped = Path(shutil.copytree(calibrated, calibrated.parent / "unmapped"))
    (unmapped / MANIFEST).unlink()
    gold = [label for _, label in right_labels(Checkpoint.load(unmapped), further)]
    results = TextClassifier.from_checkpoint(calibrated, device="cpu", coverage=0.8).batch(further)
    share = np.mean([label in (one.prediction_set or ()) for label, one in zip(gold, results, strict=True)])

    assert share >= 0.8 - 3 * np.sqrt(0.8 * 0.2 * (1 / 300 + 1 / 300))
    assert {len(one.prediction_set or ()) for one in results} & {1, 2}


def test_the_coverage_can_be_given_per_call(calibrated: Path, texts: list[str]) -> None:
    """By a configurable field, without a reload; without it there is no set."""
    classifier = TextClassifier.from_checkpoint(calibrated, device="cpu")
    configurable = classifier.configurable_fields(coverage=ConfigurableField(id="coverage"))
    some = configurable.batch(texts[:50], {"configurable": {"coverage": 0.6}})
    most = configurable.batch(texts[:50], {"configurable": {"coverage": 0.99}})

    assert sum(len(one.prediction_set or ()) for one in some) < sum(len(one.prediction_set or ()) for one in most)
    assert configurable.invoke(texts[0]).prediction_set is None


def test_the_record_says_what_sets_cost(calibrated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How many labels they hold, and the highest coverage that the rows show."""
    file = str(calibrated.parent / "rows.jsonl")
    assert main(["calibrate", str(calibrated), file]) == 0
    printed = capsys.readouterr().out
    manifest = Checkpoint.load(calibrated).manifest

    assert "coverage 0.9 takes" in printed
    assert "more than 0.995 takes all" in printed
    assert manifest is not None
    assert all(record.sets and record.sets.levels[-1].coverage == 0.995 for record in manifest.calibration)


def test_a_checkpoint_without_them_is_refused(tiny_classifier: Checkpoint) -> None:
    """When it is loaded, or at the first call, with the remedy."""
    with pytest.raises(ConfigError, match="lc-finetune calibrate"):
        TextClassifier.from_checkpoint(tiny_classifier, device="cpu", coverage=0.9)
    lazy = TextClassifier(checkpoint=str(tiny_classifier.path), device="cpu", coverage=0.9)
    with pytest.raises(ConfigError, match="calibrated for prediction sets"):
        lazy.invoke("my card")


@pytest.mark.parametrize("kind", [PairClassifier, OrdinalClassifier])
def test_pairs_and_ordered_labels_have_sets_too(kind: Any, tmp_path: Path, texts: list[str]) -> None:
    """Of the same calibration, whose label stays as it is."""
    pairs = kind is PairClassifier
    task: Any = "text-pair-classification" if pairs else "ordinal-classification"
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task)
    given = [{"text": text, **({"text_pair": "my card"} if pairs else {})} for text in texts[:60]]
    plain = kind.from_checkpoint(checkpoint, device="cpu").batch(given)
    rows = [{**row, "label": one.label} for row, one in zip(given, plain, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["calibrate", str(checkpoint.path), str(tmp_path / "rows.jsonl")]) == 0
    results = kind.from_checkpoint(checkpoint.path, device="cpu", coverage=0.9).batch(given)

    assert [one.prediction_set for one in results] == [(one.label,) for one in plain]


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1, 90])
def test_a_coverage_lies_between_0_and_1(coverage: float) -> None:
    """Neither included: no set and all labels need no model."""
    with pytest.raises(ValidationError, match="coverage"):
        TextClassifier(checkpoint="c", coverage=coverage)


def test_results_and_runnables_are_written_and_read(calibrated: Path) -> None:
    """With their sets, and with the coverage asked for."""
    classifier = TextClassifier.from_checkpoint(calibrated, device="cpu", coverage=0.9)
    result = classifier.invoke("my card")
    read = loads(dumps(classifier), allowed_objects=[TextClassifier], valid_namespaces=["lc_finetune"])

    assert result == Classification.model_validate_json(result.model_dump_json())
    assert read.coverage == 0.9
    assert read.invoke("my card") == result
    assert json.loads(classifier.as_tool(name="topic", description="Topic.").invoke({"text": "my card"}))[
        "prediction_set"
    ] == list(result.prediction_set or ())
