"""Labels are renamed, merged or translated as they are read."""

import json
from pathlib import Path

import pytest

from lc_finetune import ConfigError
from lc_finetune.cli import main
from lc_finetune.data import MultiLabelExample, ReadOptions, TaggedExample, read_examples, read_label_map
from lc_finetune.errors import DataError
from lc_finetune.labels import Span
from lc_finetune.testing import tiny_checkpoint
from lc_finetune.train import TrainConfig


def rows(folder: Path, *given: tuple[str, object], column: str = "label") -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text, column: label}) + "\n" for text, label in given))
    return path


def labels(path: Path, mapping: dict[str, str], **more: bool) -> list[str]:
    loaded = read_examples(path, ReadOptions(label_map=mapping, **more))  # type: ignore[arg-type]
    return [example.label for example in loaded.examples]  # type: ignore[union-attr]


def test_labels_are_renamed_and_merged_and_it_is_said(tmp_path: Path) -> None:
    """Those that are not in the map stay; the summary says what was merged, with the rows."""
    path = rows(tmp_path, ("a", "late"), ("b", "lost"), ("c", "torn"), ("d", "hi"))
    loaded = read_examples(path, ReadOptions(label_map={"late": "delivery", "lost": "delivery", "torn": "défaut"}))

    assert [e.label for e in loaded.examples] == ["delivery", "delivery", "défaut", "hi"]  # type: ignore[union-attr]
    assert f"{path}: labels merged into delivery: late (1), lost (1)." in loaded.notes
    assert f"{path}: labels renamed: torn → défaut." in loaded.notes


def test_each_label_is_mapped_once(tmp_path: Path) -> None:
    """Two labels can swap names; one can take the name of another that stays."""
    path = rows(tmp_path, ("a", "x"), ("b", "y"), ("c", "z"))

    assert labels(path, {"x": "y", "y": "x"}) == ["y", "x", "z"]
    assert labels(path, {"x": "z"}) == ["z", "y", "z"]


def test_labels_of_a_set_and_types_of_entities_too(tmp_path: Path) -> None:
    """A text has a merged label once."""
    several = rows(tmp_path, ("a", ["late", "lost"]), ("b", ["torn"]))
    mapping = {"late": "delivery", "lost": "delivery"}
    assert read_examples(several, ReadOptions(label_map=mapping)).examples == (
        MultiLabelExample("a", ("delivery",)),
        MultiLabelExample("b", ("torn",)),
    )

    spans = rows(tmp_path, ("Ann left", [{"start": 0, "end": 3, "label": "PER"}]), column="entities")
    assert read_examples(spans, ReadOptions(label_map={"PER": "PERSON"})).examples == (
        TaggedExample("Ann left", (Span(0, 3, "PERSON"),)),
    )


def test_names_of_integer_labels_come_first(tmp_path: Path) -> None:
    """The map speaks of names, as `--label-names` gives them."""
    path = rows(tmp_path, ("a", 0), ("b", 1))
    options = ReadOptions(label_names=("low", "high"), label_map={"high": "urgent"})

    assert [e.label for e in read_examples(path, options).examples] == ["low", "urgent"]  # type: ignore[union-attr]


def test_a_name_that_does_not_occur_is_refused_with_the_nearest(tmp_path: Path) -> None:
    """In a training file; a test file may lack a label."""
    path = rows(tmp_path, ("a", "delivery"), ("b", "torn"))

    assert labels(path, {"delivry": "x"}) == ["delivery", "torn"]
    with pytest.raises(DataError, match=r"found delivry \(did you mean 'delivery'\?\)\. Its labels are delivery, torn"):
        labels(path, {"delivry": "x"}, whole_map=True)


def test_numbers_are_no_labels(tmp_path: Path) -> None:
    """Regression has none to rename."""
    with pytest.raises(DataError, match="expected rows with labels for the label map, found those of regression"):
        read_examples(rows(tmp_path, ("a", 1.5)), ReadOptions(task="regression", label_map={"1.5": "x"}))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("map.yaml", "yes: no\n1: one\n'a: b': c d\n"),
        ("map.yaml", "!!python/object/apply:os.system {yes: no, 1: one, 'a: b': c d}\n"),
        ("map.yml", '{"yes": "no", "1": "one", "a: b": "c d"}'),
        ("map.json", '{"yes": "no", "1": "one", "a: b": "c d"}'),
    ],
)
def test_a_map_is_a_file_of_names(tmp_path: Path, name: str, content: str) -> None:
    """Nothing in it is taken for true, false or a number, and nothing is built or run."""
    path = tmp_path / name
    path.write_text(content)

    assert read_label_map(path) == {"yes": "no", "1": "one", "a: b": "c d"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("map.yaml", "a: b\na: c\n", "expected every old name once, found a more than once"),
        ("map.json", '{"a": "b", "a": "c"}', "expected every old name once"),
        ("map.json", '{"a": 1}', "expected a new name for each old one"),
        ("map.json", '["a"]', "expected a new name for each old one"),
        ("map.yaml", "- a\n", "expected a new name for each old one"),
        ("map.yaml", "a: [b]\n", "expected a new name for each old one"),
        ("map.yaml", "a: [b\n", "expected YAML or JSON"),
        ("map.json", "{", "expected YAML or JSON"),
        ("map.json", "{}", "expected a mapping from old label names"),
        ("map.yaml", "a: ''\n", "expected names on both sides"),
        ("map.yaml", "", "expected rows"),
    ],
)
def test_maps_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str) -> None:
    """Each says what is wrong with it, also by way of the configuration."""
    path = tmp_path / name
    path.write_text(content)

    with pytest.raises(DataError, match=f"(?i){message}"):
        read_label_map(path)
    with pytest.raises(ConfigError, match=f"(?i)label_map: .*{message}"):
        TrainConfig.of({"label_map": str(path)})


def test_a_configuration_holds_the_map_itself(tmp_path: Path) -> None:
    """As a mapping, or as the name of a file; what was read is what a resumed run must share."""
    path = tmp_path / "map.yaml"
    path.write_text("late: delivery\n")
    (tmp_path / "config.yaml").write_text("label_map:\n  late: delivery\n")

    named, given = TrainConfig.of({"label_map": str(path)}), TrainConfig.from_file(tmp_path / "config.yaml")
    assert named.label_map == given.label_map == {"late": "delivery"}
    assert named.fingerprint_fields() == given.fingerprint_fields()
    assert TrainConfig.of(TrainConfig().model_dump()).label_map == {}


def test_evaluation_takes_the_map_of_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that test rows with the old names can be measured."""
    checkpoint = tiny_checkpoint(tmp_path / "c", labels=("card", "cash"))
    path = rows(tmp_path, *((f"text {i}", ("karta", "cash")[i % 2]) for i in range(20)))
    mapping = tmp_path / "map.json"
    mapping.write_text('{"karta": "card"}')

    assert main(["evaluate", str(checkpoint.path), str(path)]) == 0
    assert "karta" in capsys.readouterr().out
    assert main(["evaluate", str(checkpoint.path), str(path), "--label-map", str(mapping)]) == 0
    assert "karta →" in capsys.readouterr().out
