"""Mistakes that cost different amounts make different thresholds."""

from pathlib import Path

import numpy as np
import pytest

from lc_finetune import Checkpoint, ConfigError, TextClassifier
from lc_finetune.checkpoint import Task
from lc_finetune.cli import main
from lc_finetune.inference.acceptance import Aim
from lc_finetune.inference.costs import CostMatrix
from lc_finetune.testing import tiny_checkpoint

LABELS = ("card", "cash", "other")
COSTS = """right,card,cash,other
card,0,2,0.5
cash,4,0,0.5

other,40,10,0
"""


@pytest.fixture
def costs(tmp_path: Path) -> Path:
    path = tmp_path / "costs.csv"
    path.write_text(COSTS, encoding="utf-8-sig")
    return path


def test_a_matrix_is_read_by_the_names_of_its_rows_and_columns(tmp_path: Path, costs: Path) -> None:
    """Rows may come in another order than columns."""
    lines = COSTS.split("\n")
    turned = tmp_path / "turned.csv"
    turned.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    for path in (costs, turned):
        matrix = CostMatrix.read(path)
        assert matrix.labels == LABELS
        assert matrix.costs.tolist() == [[0, 2, 0.5], [4, 0, 0.5], [40, 10, 0]]


def test_a_label_costs_what_its_mistakes_cost(costs: Path) -> None:
    """Those that were seen, and one more as the model thinks; columns in the model's order, not the file's."""
    matrix, names = CostMatrix.read(costs), ("other", "cash", "card")
    believed = np.array([[0.1, 0.1, 0.8]] * 4 + [[0.2, 0.6, 0.2]])
    answered, gold = believed.argmax(axis=1), np.array([2, 2, 2, 0, 1])
    average = matrix.when_wrong(believed, answered, gold, names)

    assert average["card"] == pytest.approx((40 + 0.5 * 40 + 0.5 * 4) / 2), "one `other` seen, one mistake shared out"
    assert average["cash"] == pytest.approx(0.5 * 10 + 0.5 * 2), "no mistake seen"
    assert average["other"] == pytest.approx(0.5), "never answered: whatever it is mistaken for costs the same"


def test_thresholds_follow_from_the_costs(costs: Path) -> None:
    """Accepted where a mistake is expected to cost less than a referral; cheap ones are risked always."""
    aim = Aim.parse(f"cost={costs}").priced({"card": 20.0, "cash": 2.0, "other": 0.5})
    assert [aim.threshold_of(label) for label in LABELS] == pytest.approx([0.95, 0.5, 0.0])
    assert Aim.parse(f"cost={costs}").priced({"other": 0.0}).threshold_of("other") == 0.0


def test_a_checkpoint_is_calibrated_by_costs(tmp_path: Path, costs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line to what is accepted: a label whose mistakes are dear needs a higher score."""
    checkpoint = tiny_checkpoint(tmp_path / "c")
    rows = tmp_path / "rows.csv"
    texts = [f"text number {i}" for i in range(60)]
    answered = [result.label for result in TextClassifier.from_checkpoint(checkpoint).batch(texts)]
    rows.write_text("text,label\n" + "".join(f"{row[0]},{row[1]}\n" for row in zip(texts, answered, strict=True)))
    assert main(["calibrate", str(checkpoint.path), str(rows), "--accept", f"cost={costs}"]) == 0
    assert "3 labels have their own" in capsys.readouterr().out

    manifest = Checkpoint.load(checkpoint.path).manifest
    assert manifest is not None
    chosen = manifest.calibration[0].acceptance
    assert chosen is not None
    assert chosen.of("card") > 0.9 > chosen.of("cash") > 0.5 > chosen.of("other") == 0.0
    for result in TextClassifier.from_checkpoint(checkpoint.path).batch(texts):
        assert result.accepted == (result.score is not None and result.score >= chosen.of(result.label))


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("", "each label once"),
        ("right,card,card\ncard,0,1\ncard,1,0\n", "each label once"),
        ("right,card,cash\ncard,0,1\n", "found cash on one side"),
        ("right,card,cash\ncard,0,1\ncash,1\n", "expected 2 costs in the row 'cash'"),
        ("right,card,cash\ncard,0,-1\ncash,1,0\n", "0 or more in the row 'card'"),
        ("right,card,cash\ncard,0,dear\ncash,1,0\n", "0 or more in the row 'card'"),
        ("right,card,cash\ncard,0,inf\ncash,1,0\n", "0 or more in the row 'card'"),
        ("right,card,cash\ncard,1,1\ncash,1,0\n", "diagonal"),
        ('right,card,cash\ncard,0,1\ncash,1,"0\n', "could not read"),
    ],
)
def test_a_faulty_file_is_one_clear_error(tmp_path: Path, written: str, named: str) -> None:
    """What was expected, and where."""
    (tmp_path / "costs.csv").write_text(written)
    with pytest.raises(ConfigError, match=named):
        Aim.parse(f"cost={tmp_path / 'costs.csv'}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Before any text is read."""
    with pytest.raises(ConfigError, match=r"none\.csv, could not read them \(FileNotFoundError\)"):
        Aim.parse(f"cost={tmp_path / 'none.csv'}")


@pytest.mark.parametrize(
    ("task", "labels", "named"),
    [
        ("text-classification", ("card", "cash"), "'other'"),
        ("text-classification", (*LABELS, "loan"), "none of loan"),
        ("multi-label-classification", LABELS, "expected one cost"),
        ("token-classification", LABELS, "expected one cost"),
    ],
)
def test_a_matrix_of_other_labels_or_for_another_task_is_refused(
    costs: Path, task: Task, labels: tuple[str, ...], named: str
) -> None:
    """It would leave mistakes without a cost."""
    with pytest.raises(ConfigError, match=named):
        Aim.parse(f"cost={costs}").check(task, labels)
