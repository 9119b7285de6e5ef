"""What a checkpoint is, and whether the texts of a file are still like those that it was measured on."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lc_finetune import Checkpoint, CheckpointError, ConfigError, DataError
from lc_finetune.checkpoint import REFERENCE, Task
from lc_finetune.cli import DRIFTED, main
from lc_finetune.inspection import (
    Measures,
    compare_measures,
    drift,
    drift_table,
    measure,
    read_reference,
    reference_of,
    write_reference,
)
from lc_finetune.inspection.changes import chi_squared, fisher_exact, holm, kolmogorov_smirnov, two_proportions
from lc_finetune.inspection.files import draw
from lc_finetune.testing import SENTENCES, tiny_checkpoint
from tests.test_readme import snippets

WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
STRANGE = "ⴰⴱⴳ"
"""A word whose characters the tiny tokenizer does not know."""


def some_texts(count: int, *, seed: int = 0, longest: int = 9, strange: float = 0.0) -> list[str]:
    random = np.random.default_rng(seed)
    texts = [list(random.choice(WORDS, size=random.integers(1, longest))) for _ in range(count)]
    return [" ".join([*text, STRANGE] if random.random() < strange else text) for text in texts]


def jsonl(path: Path, texts: Sequence[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def drawn(random: np.random.Generator, texts: int, *, score: float = 8.0, mix: Sequence[float] = (0.6, 0.3, 0.1),
          length: float = 20.0, unknown: float = 0.02, scope: float = 1.0) -> Measures:  # fmt: skip
    """Measures of texts that a model might answer, from known distributions."""
    pieces = random.poisson(length, texts) + 1
    counts = random.multinomial(texts, np.array(mix) / sum(mix))
    return Measures(
        source="drawn", rows=texts, pieces=tuple(pieces.tolist()),
        unknown=tuple(random.binomial(pieces, np.clip(random.beta(0.3, 0.3 / unknown - 0.3, texts), 0, 1)).tolist()),
        scores=tuple(random.beta(score, 2, texts).round(6).tolist()),
        in_scope=tuple((random.random(texts) ** (1 / scope)).round(6).tolist()),
        labels=dict(zip("abc", counts.tolist(), strict=True)),
    )  # fmt: skip


def moved(before: Measures, after: Measures, **options: Any) -> set[str]:
    return {change.measure for change in compare_measures(before, after, task="text-classification", **options).moved}


# Tests.


@pytest.mark.parametrize("sizes", [(100, 100), (300, 2000), (2000, 10_000)])
def test_false_alarms_are_as_rare_as_was_asked(sizes: tuple[int, int]) -> None:
    """Of comparisons of texts that do not differ, at most 5 % tell a drift at 5 %, whatever effect is asked for."""
    random = np.random.default_rng(7)
    replays = 200
    alarms = sum(
        bool(moved(drawn(random, sizes[0]), drawn(random, sizes[1]), significance=0.05, least_effect=0.0))
        for _ in range(replays)
    )

    assert alarms <= 0.05 * replays + 2.33 * np.sqrt(replays * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"score": 4.0}, "score"),
        ({"mix": (0.3, 0.3, 0.4)}, "label mix"),
        ({"length": 26.0}, "length in pieces"),
        ({"unknown": 0.10}, "unknown pieces"),
        ({"scope": 0.4}, "in-scope p-value"),
    ],
)
def test_what_moved_is_named_and_nothing_else(change: dict[str, Any], name: str) -> None:
    """In twenty seeded draws each, a change of one thing is told as that thing."""
    random = np.random.default_rng(3)
    found = [moved(drawn(random, 1000), drawn(random, 1000, **change)) for _ in range(20)]

    assert [{name}] * 20 == found


def test_with_very_many_texts_a_trifle_is_no_drift() -> None:
    """The p-value is tiny, the effect too: it is not told, unless effects of any size are asked for."""
    random = np.random.default_rng(5)
    before, after = drawn(random, 40_000), drawn(random, 40_000, score=7.6, mix=(0.59, 0.31, 0.1))

    assert moved(before, after) == set()
    assert {"score"} <= moved(before, after, least_effect=0.0)


def test_one_odd_text_is_no_drift_of_unknown_pieces() -> None:
    """Pieces of one text resemble each other: 500 unknown ones in one text are one observation."""
    pieces, none = np.full(500, 20.0), np.zeros(500)
    odd, longer = none.copy(), pieces.copy()
    odd[0] = longer[0] = 500.0

    assert two_proportions((none, pieces), (odd, longer)).p_value > 0.05
    assert two_proportions((none, pieces), (np.full(500, 1.0), pieces)).p_value < 1e-6


def test_rare_labels_are_put_together() -> None:
    """No cell of the test expects fewer than five texts; without two such cells there is no test."""
    common, rare = np.array([[50.0, 50.0], [50.0, 50.0]]), np.ones((2, 40))
    pooled = chi_squared(np.hstack([common, rare]))

    assert pooled is not None
    assert pooled.statistic == pytest.approx(0.0)
    assert chi_squared(np.array([[100.0, 1.0], [100.0, 0.0]])) is None


def test_many_labels_do_not_make_an_effect() -> None:
    """Cohen's w has no chance in it: of 77 labels that did not move it stays near zero."""
    random = np.random.default_rng(1)
    found = [chi_squared(random.multinomial(1000, np.full(77, 1 / 77), size=2).astype(float)) for _ in range(50)]

    assert np.mean([one.effect for one in found if one]) < 0.15
    assert np.median([one.effect for one in found if one]) < 0.1


def test_effects_are_what_they_are_called() -> None:
    """D of a shift by half, h of shares 0.5 and 0, w of a mix turned round, against values worked out by hand."""
    assert kolmogorov_smirnov(np.arange(100.0), np.arange(50.0, 150.0)).effect == pytest.approx(0.5)
    assert fisher_exact((50, 0), (100, 100)).effect == pytest.approx(np.pi / 2)
    turned = chi_squared(np.array([[9000.0, 1000.0], [1000.0, 9000.0]]))
    assert turned is not None
    assert turned.effect == pytest.approx(np.sqrt(2 * 0.8**2 / 0.5), rel=1e-3)


def test_holm_is_the_least_bonferroni_that_stays_in_order() -> None:
    """Adjusted p-values follow the order of the p-values, and never exceed 1."""
    assert holm([0.04, 0.01, 0.9, 0.03]) == pytest.approx([0.09, 0.04, 0.9, 0.09])
    assert holm([]) == []


def test_labels_of_which_a_text_has_several_are_tested_each() -> None:
    """They are no parts of a whole, and texts without any are a kind of their own."""
    base: dict[str, Any] = {"rows": 200, "pieces": (9,) * 200, "unknown": (0,) * 200}
    before = Measures(source="b", labels={"late": 100, "torn": 100}, without=20, **base)
    after = Measures(source="a", labels={"late": 100, "torn": 20}, without=90, **base)
    found = compare_measures(before, after, task="multi-label-classification")

    assert [change.measure for change in found.moved] == ["texts with torn", "texts without a label"]


def test_few_texts_say_how_little_they_can_show() -> None:
    """And fewer than thirty are refused, by the name of their file."""
    random = np.random.default_rng(0)
    table = drift_table(compare_measures(drawn(random, 40), drawn(random, 40), task="text-classification"))

    assert "So few texts show" in table
    assert "So few" not in drift_table(
        compare_measures(drawn(random, 2000), drawn(random, 9000), task="text-classification")
    )
    with pytest.raises(DataError, match="drawn: expected at least 30 texts to compare, found 29"):
        compare_measures(drawn(random, 40), drawn(random, 29), task="text-classification")


# Checkpoints.


@pytest.fixture
def folder(tiny_classifier: Checkpoint, tmp_path: Path) -> Checkpoint:
    """A classifier with a reference of 200 texts."""
    checkpoint = Checkpoint.load(shutil.copytree(tiny_classifier.path, tmp_path / "c"))
    reference = reference_of(checkpoint, some_texts(200), source="calibration rows")
    assert reference is not None
    write_reference(checkpoint.path, reference)
    return Checkpoint.load(checkpoint.path)


def test_a_reference_holds_numbers_alone(folder: Checkpoint) -> None:
    """No word of a text is in it, and it says what was measured."""
    written = json.loads((folder.path / REFERENCE).read_text())
    reference = read_reference(folder)
    assert reference is not None

    assert len(reference) == len(reference.scores) == sum(reference.labels.values()) == 200
    assert {name for name, value in written.items() if isinstance(value, str)} == {"source", "weights"}
    assert set(written["labels"]) <= set(folder.labels.names)
    assert all(type(one) in (int, float) for value in written.values() if isinstance(value, list) for one in value)


def test_other_texts_are_told_from_like_ones(folder: Checkpoint, tmp_path: Path) -> None:
    """Longer texts with unknown words move; texts drawn anew do not. The status says so if asked."""
    like = jsonl(tmp_path / "like.jsonl", some_texts(200, seed=1))
    other = jsonl(tmp_path / "other.jsonl", some_texts(200, seed=1, longest=30, strange=0.9))

    assert drift(folder, like).moved == ()
    assert {"length in pieces", "unknown pieces"} <= {change.measure for change in drift(folder, other).moved}
    command = ["inspect", str(folder.path), "--fail-on-drift", "--against"]
    assert main([*command, str(like)]) == 0
    assert main([*command, str(other)]) == DRIFTED == 3
    assert main(["inspect", str(folder.path), "--against", str(other)]) == 0


def test_json_says_all_that_the_table_says(
    folder: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both forms are of one comparison, and neither quotes a text."""
    other = jsonl(tmp_path / "other.jsonl", some_texts(100, seed=1, longest=30, strange=0.9))
    assert main(["inspect", str(folder.path), "--against", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["inspect", str(folder.path), "--against", str(other)]) == 0
    table = capsys.readouterr().out

    assert found["texts"] == [200, 100]
    assert [one["measure"] for one in found["changes"] if one["moved"]] == [
        one.split("  ")[2].strip() for one in table.splitlines() if one.startswith("  MOVED")
    ]
    assert STRANGE not in table


@pytest.mark.parametrize(
    "task",
    ["multi-label-classification", "token-classification", "regression", "text-pair-classification",
     "relation-classification", "question-answering"],
)  # fmt: skip
def test_every_task_is_compared(task: Task, tmp_path: Path) -> None:
    """With a file as the reference: its own texts do not differ, longer ones do."""
    checkpoint = tiny_checkpoint(tmp_path / "c", task=task)

    def written(name: str, texts: Sequence[str]) -> Path:
        rows: list[dict[str, str]] = [{"text": text} for text in texts]
        if task == "text-pair-classification":
            rows = [{"text": "card", "text_pair": text} for text in texts]
        if task == "question-answering":
            rows = [{"question": "card?", "context": text} for text in texts]
        if task == "relation-classification":
            rows = [{"text": f"<e1>card</e1> <e2>cash</e2> {text}"} for text in texts]
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    same = written("same.jsonl", some_texts(60))
    longer = written("longer.jsonl", some_texts(60, longest=40))

    assert drift(checkpoint, same, reference=same).moved == ()
    assert "length in pieces" in {change.measure for change in drift(checkpoint, longer, reference=same).moved}


def test_in_scope_p_values_are_compared_where_there_are_some(tmp_path: Path) -> None:
    """A model that tells texts out of scope has them in its reference."""
    from lc_finetune.checkpoint import write_manifest
    from lc_finetune.inference import Predictor
    from lc_finetune.inference.outputs import outputs_of
    from lc_finetune.inference.scope import fit_detector

    checkpoint = tiny_checkpoint(tmp_path / "c")
    features = outputs_of(Predictor.load(checkpoint), some_texts(90)).features
    fit_detector(features[:60], np.arange(60) % 3, features[60:]).save(checkpoint.path)
    assert checkpoint.manifest is not None
    write_manifest(checkpoint.path, checkpoint.manifest)
    file = jsonl(tmp_path / "a.jsonl", some_texts(50))

    found = drift(Checkpoint.load(checkpoint.path), file, reference=file)

    assert "in-scope p-value" in {change.measure for change in found.changes}


def test_calibration_leaves_a_reference(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """So that a checkpoint made without one gets it, and a plain Hugging Face folder too."""
    path = Path(shutil.copytree(tiny_classifier.path, tmp_path / "c"))
    (path / "lc_finetune.json").unlink()
    rows = tmp_path / "rows.jsonl"
    labels = ["card", "cash", "other"] * 40
    rows.write_text(
        "".join(json.dumps({"text": t, "label": n}) + "\n" for t, n in zip(some_texts(120), labels, strict=True))
    )

    assert main(["calibrate", str(path), str(rows)]) == 0
    reference = read_reference(Checkpoint.load(path))
    assert reference is not None
    assert (reference.source, len(reference)) == ("rows of rows.jsonl", 120)
    assert drift(Checkpoint.load(path), rows).moved == ()


def test_what_a_checkpoint_is(folder: Checkpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, class, labels, windows and reference; as JSON, the whole manifest."""
    assert main(["inspect", str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert main(["inspect", str(folder.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert "text-classification, load it with TextClassifier" in said
    assert "3: card, cash, other" in said
    assert "200 calibration rows" in said
    assert found["manifest"]["max_length"] == 32
    assert found["reference_texts"] == 200


def test_exports_are_named_with_their_parity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one whose weights are no longer the folder's is said to be."""
    checkpoint = tiny_checkpoint(tmp_path / "c", onnx=True)
    assert main(["inspect", str(checkpoint.path)]) == 0
    said = capsys.readouterr().out
    assert "Export onnx\nParity with torch in fp32" in said

    manifest = checkpoint.path / "onnx" / "export.json"
    manifest.write_text(manifest.read_text().replace(checkpoint.weights_digest, "0" * 64))
    assert main(["inspect", str(checkpoint.path)]) == 0
    assert "Export onnx (of other weights" in capsys.readouterr().out


# Files.


def test_a_long_file_is_drawn_from_all_over(tmp_path: Path) -> None:
    """In chunks, the same rows each time, none twice, and rows without a text are counted."""
    path = tmp_path / "long.jsonl"
    rows = [json.dumps({"text": f"t{i}"} if i % 10 else {"text": None}) for i in range(5000)]
    path.write_text("\n".join(['{"text": "first"}', *rows]))
    found = draw(path, "text-classification", most=1000)
    texts = [text for chunk in found.chunks for text in chunk]
    again = [text for chunk in draw(path, "text-classification", most=1000).chunks for text in chunk]

    assert (found.rows, found.blank, len(texts), len(set(texts))) == (4501, 500, 1000, 1000)
    assert texts == again
    assert len({int(text[1:]) // 1000 for text in texts if text != "first"}) == 5
    whole = [text for chunk in draw(path, "text-classification").chunks for text in chunk]
    assert whole[:2] == ["first", "t1"]


def test_a_long_file_is_not_held(folder: Checkpoint, tmp_path: Path) -> None:
    """Memory does not grow with the file: a file of ten times the rows takes as much, give or take a chunk."""
    import tracemalloc

    def peak(rows: int) -> int:
        path = jsonl(tmp_path / f"{rows}.jsonl", [f"t{i} " + "card " * 200 for i in range(rows)])
        tracemalloc.start()
        texts = sum(len(chunk) for chunk in draw(path, "text-classification", most=100).chunks)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert texts == 100
        return most

    peak(1500)  # what the first call imports
    assert peak(20_000) < 1.5 * peak(2000)


def test_files_of_words_and_tags_are_read_too(tmp_path: Path, tiny_tagger: Checkpoint) -> None:
    """Their words are what is compared; tags are left out."""
    path = tmp_path / "a.conll"
    path.write_text("Angela B-PER\nflew O\n\n" * 40)

    assert drift(tiny_tagger, path, reference=path).texts == (40, 40)


def test_texts_that_cannot_be_read_are_counted(folder: Checkpoint) -> None:
    """A lone surrogate is in no list, and in the count."""
    measures = measure(folder, [["card"] * 40, ["\ud800"]], source="a", rows=41)

    assert (len(measures), measures.unread) == (40, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "5"], "rows: expected at least 30 texts"),
        (["--rows", "many"], "invalid int value"),
        (["--significance", "0"], "significance: expected a probability"),
        (["--significance", "nan"], "significance: expected a probability"),
        (["--least-effect", "-1"], "least-effect: expected an effect size"),
        (["--text-column", "body"], "expected the column 'body'"),
        (["--text-pair-column", "body"], "Expected a checkpoint of text pairs"),
        (["--reference", "none.csv"], "none.csv: expected a file, found none there"),
    ],
)
def test_options_that_cannot_be_used(
    folder: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """Each ends with one line and status 2."""
    file = jsonl(tmp_path / "a.jsonl", some_texts(40))

    assert main(["inspect", str(folder.path), "--against", str(file), *options]) == 2
    assert message in capsys.readouterr().err


def test_files_and_folders_that_cannot_be_used(
    folder: Checkpoint, tiny_classifier: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No reference, one of other weights, one that is no reference, an empty file, options without a file."""
    file = jsonl(tmp_path / "a.jsonl", some_texts(40))
    empty = jsonl(tmp_path / "empty.jsonl", [])
    with pytest.raises(CheckpointError, match=r"found none.*--reference FILE, or record some: lc-finetune calibrate"):
        drift(tiny_classifier, file)
    with pytest.raises(DataError, match="at least 30 texts to compare, found 0"):
        drift(folder, empty)
    with pytest.raises(ConfigError, match="rows"):
        drift(folder, file, rows=0)
    assert main(["inspect", str(folder.path), "--fail-on-drift"]) == 2
    assert "Expected --against FILE with --fail-on-drift" in capsys.readouterr().err

    path = folder.path / REFERENCE
    path.write_text(path.read_text().replace(folder.weights_digest, "0" * 64))
    with pytest.raises(CheckpointError, match="found another's"):
        drift(folder, file)
    broken = json.loads(path.read_text())
    for altered in (
        {"source": "x"},
        broken | {"pieces": broken["pieces"][1:]},
        broken | {"unknown": [10**6] * 200},
        broken | {"scores": [7.0]},
        broken | {"without": 10**30},
    ):
        path.write_text(json.dumps(altered))
        with pytest.raises(CheckpointError, match="expected the numbers of reference texts"):
            drift(folder, file)


def test_the_page_on_drift_runs(folder: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder.path, tmp_path / "runs" / "support")
    for name in ("this_week.csv", "last_week.csv"):
        (tmp_path / name).write_text(
            "\n".join(["text", *(" ".join(text.split()[:1]).strip('",') for text in some_texts(40))])
        )
    namespace: dict[str, Any] = {}
    for snippet in snippets("docs/drift.md"):
        exec(snippet, namespace)

    assert namespace["found"].texts == (40, 40)


def test_training_leaves_a_reference(tmp_path: Path, base_model: Path) -> None:
    """Of the rows held out for calibration, so that the very first file can be compared."""
    from lc_finetune.train import TrainConfig, fine_tune

    texts = some_texts(400)
    rows = [{"text": f"{text} {i}", "label": ("card", "other")["card" not in text]} for i, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checkpoint = fine_tune(
        TrainConfig(
            train_file=str(tmp_path / "rows.jsonl"), base_model=str(base_model), output_dir=str(tmp_path / "out"),
            epochs=1, baseline=False,
        )
    )  # fmt: skip
    reference = read_reference(checkpoint)

    assert reference is not None
    assert len(reference) >= 30
    assert "validation rows" in reference.source
