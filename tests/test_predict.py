"""Files of texts in, the same rows with results out."""

import csv
import datetime
import io
import json
import multiprocessing
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lc_finetune.bulk import PredictConfig, Progress, predict_file
from lc_finetune.bulk import predict as stage
from lc_finetune.checkpoint import Checkpoint
from lc_finetune.cli import main
from lc_finetune.errors import ConfigError, DataError
from lc_finetune.inference import Predictor
from lc_finetune.inference.export import export
from lc_finetune.testing import tiny_checkpoint

ADDED = ["label", "score", "accepted", "in_scope", "error"]

SMALL_CHUNKS = """
import sys
from lc_finetune.bulk import predict, work
from lc_finetune.cli import main
predict.CHUNK_ROWS["cpu"] = 4
work.COMMIT_SECONDS = 0.0
sys.stdout, sys.stderr = open({console!r} + ".out", "w", buffering=1), open({console!r} + ".err", "w", buffering=1)
sys.exit(main(["predict", *{arguments}]))
"""

Predict = Callable[..., Progress]


@pytest.fixture
def predict(tiny_classifier: Checkpoint) -> Predict:
    """`predict_file` on CPU with the tiny classifier."""

    def run(source: Path, output: Path, **options: Any) -> Progress:
        checkpoint = str(options.pop("checkpoint", tiny_classifier.path))
        report = options.pop("report", None)
        config = PredictConfig(checkpoint=checkpoint, input=source, output=output, device="cpu", **options)
        return predict_file(config, report=report)

    return run


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four rows, each recorded at once."""
    monkeypatch.setitem(stage.CHUNK_ROWS, "cpu", 4)
    monkeypatch.setattr("lc_finetune.bulk.work.COMMIT_SECONDS", 0.0)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def many(folder: Path, kind: str, rows: int) -> Path:
    """A file of so many rows, some without a text where the format allows it."""
    path = folder / f"many.{kind}"
    texts = [f"where is my card {i} " * (i % 7) for i in range(rows)]
    if kind == "parquet":
        table = pa.table({"id": range(rows), "text": [text if i % 50 else None for i, text in enumerate(texts)]})
        pq.write_table(table, path, row_group_size=max(1, rows // 3))
    elif kind == "csv":
        write(path, "id,text\n" + "".join(f'{i:05},"{text}\n"\n' for i, text in enumerate(texts)))
    else:
        rows_of = ({"id": i, "text": text if i % 50 else i} for i, text in enumerate(texts))
        write(path, "".join(json.dumps(row) + "\n" for row in rows_of))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """What other readers make of an output; of CSV, all strings."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    content = path.read_bytes().decode()
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(content, newline=""), strict=True))
    return [json.loads(line) for line in content.split("\n") if line]


def start(checkpoint: Checkpoint, source: Path, output: Path) -> Any:
    """The command in a process of its own, in chunks of four rows; it prints to `OUTPUT.out` and `OUTPUT.err`."""
    arguments = [str(checkpoint.path), "--device", "cpu", "--input", str(source), "--output", str(output)]
    # A server that has imported everything forks the processes: starting one takes no time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lc_finetune.runnables", "transformers.models.bert.modeling_bert"])
    process = processes.Process(target=exec, args=(SMALL_CHUNKS.format(arguments=arguments, console=str(output)), {}))
    process.start()
    return process


def rows_recorded(output: Path) -> int:
    record = output.with_name(f"{output.name}.part.json")
    return int(json.loads(record.read_text())["position"]["rows"]) if record.exists() else 0


def leftovers(output: Path) -> list[str]:
    return sorted(name for name in os.listdir(output.parent) if f"{output.name}.part" in name)


# What is answered.


def test_the_answers_are_the_predictors_own(predict: Predict, tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Label and score of each row; a blank text is not accepted; what is not calibrated is null."""
    texts = ["where is my card", "", "cash!"]
    source = write(tmp_path / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = predict(source, tmp_path / "b.jsonl")
    expected = Predictor.load(tiny_classifier, device="cpu").predict(texts)

    assert [
        {"text": r.text, "label": r.label, "score": r.score, "accepted": r.accepted, "in_scope": None, "error": None}
        for r in expected
    ] == read(tmp_path / "b.jsonl")
    assert (done.rows, done.errors, done.share) == (3, 0, 1.0)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_scores_add_the_whole_distribution(predict: Predict, tmp_path: Path, kind: str) -> None:
    """An object label → probability; in CSV as JSON."""
    predict(write(tmp_path / "a.csv", "text\nwhere\n"), tmp_path / f"b.{kind}", scores=True)
    row = read(tmp_path / f"b.{kind}")[0]
    scores = json.loads(row["scores"]) if kind == "csv" else row["scores"]

    assert list(row) == ["text", "label", "score", "accepted", "in_scope", "scores", "error"]
    assert list(scores) == ["card", "cash", "other"]
    assert float(row["score"]) == max(scores.values())


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_tagger_adds_entities(predict: Predict, tiny_tagger: Checkpoint, tmp_path: Path, kind: str) -> None:
    """A list of label, text, start, end and score; in CSV as JSON."""
    text = 'Angela Merkel flew\nto Paris, "Zoë"'
    source = write(tmp_path / "a.jsonl", json.dumps({"text": text}))
    predict(source, tmp_path / f"b.{kind}", checkpoint=tiny_tagger.path)
    row = read(tmp_path / f"b.{kind}")[0]
    entities = json.loads(row["entities"]) if kind == "csv" else row["entities"]

    assert [e.model_dump() for e in Predictor.load(tiny_tagger, device="cpu").predict([text])[0].entities] == entities
    assert all(text[e["start"] : e["end"]] == e["text"] for e in entities)


def test_a_row_without_a_text_has_an_error_and_stops_nothing(predict: Predict, tmp_path: Path) -> None:
    """Its results are empty; the reason holds no text."""
    rows = ['{"text": "good"}', '{"text": 17}', '{"text": null}', '{"other": 1}', '{"text": "secret \\ud800"}']
    done = predict(write(tmp_path / "a.jsonl", "\n".join(rows)), tmp_path / "b.jsonl")
    errors = [json.loads(line)["error"] for line in (tmp_path / "b.jsonl").read_text().splitlines()]

    assert done.errors == 4
    assert errors[0] is None
    assert [error.partition("found ")[2].rstrip(".") for error in errors[1:4]] == ["a number", "none", "none"]
    assert "surrogate" in errors[4]
    assert "secret" not in errors[4]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_without_rows_gives_one_without_rows(predict: Predict, tmp_path: Path, kind: str) -> None:
    """The columns are there."""
    source = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), source)
    else:
        write(source, "" if kind == "jsonl" else "text\n")

    assert predict(source, tmp_path / f"b.{kind}").rows == 0
    if kind == "parquet":
        assert ["text", *ADDED] == pq.read_schema(tmp_path / "b.parquet").names
    else:
        delimiter = {"csv": ",", "tsv": "\t"}.get(kind, "")
        header = delimiter.join(["text", *ADDED]) + "\n" if delimiter else ""
        assert header == (tmp_path / f"b.{kind}").read_text()


# What stays.

CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | CELLS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CELLS, inner, max_size=2),
    max_leaves=4,
)
NAMES = CELLS.filter(lambda name: name not in ("text", *ADDED))
FILES = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5), quoting=st.sampled_from([0, 1]))
@FILES
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_cells_of_a_csv_file_stay(
    predict: Predict, tmp_path: Path, kind: str, rows: list[tuple[str, str]], quoting: Any
) -> None:
    """Line breaks, quotes, leading spaces and zeros: the strings that were there."""
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=quoting).writerows([("text", "x"), *rows])
    predict(tmp_path / "a.csv", tmp_path / f"b.{kind}", overwrite=True)

    assert rows == [(row["text"], row["x"]) for row in read(tmp_path / f"b.{kind}")]


@given(rows=st.lists(st.dictionaries(NAMES, JSON_VALUES, max_size=3), min_size=1, max_size=4))
@FILES
def test_fields_of_a_jsonl_file_stay_to_the_byte(predict: Predict, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Whatever stands before the added fields is what stood there."""
    lines = [json.dumps({"text": "a", **row}, ensure_ascii=bool(i % 2)) for i, row in enumerate(rows)]
    predict(write(tmp_path / "a.jsonl", "\n".join(lines)), tmp_path / "b.jsonl", overwrite=True)
    written = (tmp_path / "b.jsonl").read_bytes().decode().split("\n")[:-1]

    assert lines == [line.rpartition(', "label": ')[0] + "}" for line in written]
    assert [[*json.loads(line), *ADDED] for line in lines] == [list(json.loads(line)) for line in written]


@given(rows=st.lists(st.dictionaries(NAMES, JSON_VALUES, max_size=3), min_size=1, max_size=4))
@FILES
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_fields_of_a_jsonl_file_become_columns(
    predict: Predict, tmp_path: Path, kind: str, rows: list[dict[str, Any]]
) -> None:
    """Strings as they are, other values as JSON, or in a type that holds them exactly."""
    lines = "".join(json.dumps({"text": "a", **row}) + "\n" for row in rows)
    predict(write(tmp_path / "a.jsonl", lines), tmp_path / f"b.{kind}", overwrite=True)
    written = read(tmp_path / f"b.{kind}")

    assert list(dict.fromkeys(["text", *(name for row in rows for name in row), *ADDED])) == list(written[0])
    for row, found in zip(rows, written, strict=True):
        for name, value in row.items():
            if value is None:
                assert found[name] in (None, "")
            elif isinstance(value, str) or not isinstance(found[name], str):
                assert value == found[name]
            else:
                assert value == json.loads(found[name])


def test_numbers_that_no_type_holds_keep_their_digits(predict: Predict, tmp_path: Path) -> None:
    """Huge, precise and overflowing ones, in every format."""
    digits = ["1.10", "1e400", "12345678901234567890123", "0.1000000000000000055511151231257827"]
    fields = ", ".join(f'"n{i}": {number}' for i, number in enumerate(digits))
    write(tmp_path / "a.jsonl", f'{{"text": "a", {fields}, "deep": [{digits[1]}]}}\n')
    for kind in ("jsonl", "csv", "parquet"):
        predict(tmp_path / "a.jsonl", tmp_path / f"b.{kind}")

    assert f'{{"text": "a", {fields}, "deep": [1e400], "label"' in (tmp_path / "b.jsonl").read_text()
    assert [*digits, "[1e400]"] == [v for k, v in read(tmp_path / "b.csv")[0].items() if k[0] in "nd"]
    assert [1.1, *digits[1:], "[1e400]"] == [v for k, v in read(tmp_path / "b.parquet")[0].items() if k[0] in "nd"]


def test_columns_of_jsonl_get_the_narrowest_exact_type(predict: Predict, tmp_path: Path) -> None:
    """Of all rows, not of the first."""
    rows = [
        {"text": "a", "i": 1, "d": 1, "b": None, "s": "x", "m": 1, "l": 2**60, "n": None},
        {"text": "a", "i": None, "d": 0.5, "b": True, "s": "", "m": "x", "l": 0.5, "late": 2**62},
    ]
    predict(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))), tmp_path / "b.parquet")
    types = {field.name: str(field.type) for field in pq.read_schema(tmp_path / "b.parquet")}

    expected = {"i": "int64", "d": "double", "b": "bool", "s": "string", "m": "string", "l": "string", "late": "int64"}
    assert expected == {name: types[name] for name in expected}


def test_empty_and_missing_stay_apart(predict: Predict, tmp_path: Path) -> None:
    """`""` is a string, nothing is nothing."""
    write(tmp_path / "a.csv", 'x,text,y\n"",a,\n,b,""\n')
    predict(tmp_path / "a.csv", tmp_path / "b.csv")
    write(tmp_path / "a.jsonl", '{"text": "a", "x": ""}\n{"text": "b", "x": null}\n')
    predict(tmp_path / "a.jsonl", tmp_path / "c.csv")

    for name, starts in (("b.csv", ['"",a,,', ',b,"",']), ("c.csv", ['a,"",', "b,,"])):
        rows = (tmp_path / name).read_text().splitlines()[1:]
        assert [row.startswith(start) for row, start in zip(rows, starts, strict=True)] == [True, True]


def test_a_table_keeps_its_mark_and_its_line_ends(predict: Predict, tmp_path: Path) -> None:
    """Byte order mark, CRLF, a last line without an end, blank lines left out."""
    write(tmp_path / "a.csv", '\ufeffid,text\r\n007,"a\r\nb"\r\n\r\n 8,c')
    predict(tmp_path / "a.csv", tmp_path / "b.csv")
    written = (tmp_path / "b.csv").read_bytes().decode()

    assert written.startswith('\ufeffid,text,label,score,accepted,in_scope,error\r\n007,"a\r\nb",')
    assert written.split("\r\n")[3].startswith(" 8,c,")
    assert written.endswith("\r\n")


def test_tsv_stays_tsv(predict: Predict, tmp_path: Path) -> None:
    """Quotes are characters; from another format it is refused, since it cannot hold every text."""
    write(tmp_path / "a.tsv", 'text\tx\nsay "hi\t"\n')
    predict(tmp_path / "a.tsv", tmp_path / "b.tsv")
    predict(tmp_path / "a.tsv", tmp_path / "b.csv")

    assert (tmp_path / "b.tsv").read_text().splitlines()[1].startswith('say "hi\t"\t')
    assert tuple(read(tmp_path / "b.csv")[0].values())[:2] == ('say "hi', '"')
    with pytest.raises(ConfigError, match=r"Write \.csv"):
        predict(tmp_path / "b.csv", tmp_path / "c.tsv", prefix="x_")


def parquet_of_all_types(path: Path) -> pa.Table:
    when = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "text": pa.array(["a", None, "c"], pa.large_string()),
            "f32": pa.array([0.1, float("nan"), None], pa.float32()),
            "d": pa.array([Decimal("1.10"), None, Decimal("-2.00")], pa.decimal128(10, 2)),
            "when": pa.array([when, None, when], pa.timestamp("us", "UTC")),
            "raw": pa.array([b"\0\xff", b"", None]),
            "dict": pa.array(["x", "y", "x"]).dictionary_encode(),
            "deep": pa.array([{"a": [1, None]}, None, {"a": []}], pa.struct({"a": pa.list_(pa.int8())})),
        }
    ).replace_schema_metadata({"origin": "test"})
    pq.write_table(table, path, row_group_size=2)
    return table


@pytest.mark.usefixtures("small_chunks")
def test_columns_of_a_parquet_file_keep_types_and_metadata(predict: Predict, tmp_path: Path) -> None:
    """In Parquet; the added ones are typed too."""
    parquet_of_all_types(tmp_path / "a.parquet")
    predict(tmp_path / "a.parquet", tmp_path / "b.parquet")
    before, after = pq.read_table(tmp_path / "a.parquet"), pq.read_table(tmp_path / "b.parquet")

    assert before.schema.equals(pa.schema(list(after.schema)[:-5], after.schema.metadata), check_metadata=True)
    assert before.drop("f32").equals(after.select(before.drop("f32").column_names))
    assert [str(field.type) for field in list(after.schema)[-5:]] == ["string", "double", "bool", "double", "string"]


def test_columns_of_a_parquet_file_in_text_formats(predict: Predict, tmp_path: Path) -> None:
    """ISO 8601, digits, base64, JSON; and valid JSON whatever the numbers."""
    parquet_of_all_types(tmp_path / "a.parquet")
    predict(tmp_path / "a.parquet", tmp_path / "b.jsonl")
    predict(tmp_path / "a.parquet", tmp_path / "b.csv")
    first, second, _ = read(tmp_path / "b.jsonl")
    cells = read(tmp_path / "b.csv")[0]

    expected = {"d": "1.10", "when": "2024-02-29T12:30:15.123456+00:00", "raw": "AP8=", "dict": "x"}
    assert expected == {name: first[name] for name in expected} == {name: cells[name] for name in expected}
    assert {"a": [1, None]} == first["deep"] == json.loads(cells["deep"])
    assert second["f32"] == "nan"


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_chunks_neither_lose_nor_double_a_row(predict: Predict, tmp_path: Path, kind: str) -> None:
    """In their order, whatever the row groups."""
    predict(many(tmp_path, kind, 103), tmp_path / f"b.{kind}")

    assert list(range(103)) == [int(row["id"]) for row in read(tmp_path / f"b.{kind}")]


def test_the_output_is_as_private_as_the_input(predict: Predict, tmp_path: Path) -> None:
    """Permissions are the input's."""
    for kind in ("csv", "parquet"):
        source = many(tmp_path, kind, 3)
        source.chmod(0o640)
        predict(source, tmp_path / f"b.{kind}")
        assert stat.S_IMODE((tmp_path / f"b.{kind}").stat().st_mode) == 0o640


# Being stopped.


class Stop(Exception):
    """Stands for whatever stops a run."""


def stopper(rows: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.rows >= rows:
            raise Stop

    return report


@pytest.mark.parametrize(
    "kind", ["csv", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("jsonl", "parquet"))]
)
def test_killed_at_any_moment_it_ends_with_the_same_bytes(
    tiny_classifier: Checkpoint, tmp_path: Path, kind: str
) -> None:
    """SIGKILL again and again, then the same command: the output of a run that nobody disturbed."""
    source, whole, output = many(tmp_path, kind, 1000), tmp_path / f"whole.{kind}", tmp_path / f"killed.{kind}"
    start(tiny_classifier, source, whole).join()
    chance, kills = random.Random(kind), 0
    while not output.exists():
        before, run = rows_recorded(output), start(tiny_classifier, source, output)
        while run.is_alive() and kills < 5 and rows_recorded(output) - before < 120:
            time.sleep(0.001)
        if run.is_alive() and kills < 5:
            time.sleep(chance.random() / 50)
            run.kill()
        run.join()
        kills += run.exitcode == -signal.SIGKILL

    assert kills >= 3
    assert whole.read_bytes() == output.read_bytes()
    assert leftovers(output) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("output_kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_stopped_after_every_chunk_it_ends_with_the_same_bytes(
    predict: Predict, tmp_path: Path, kind: str, output_kind: str
) -> None:
    """For each pair of formats; errors are counted once."""
    source, whole, output = many(tmp_path, kind, 22), tmp_path / f"whole.{output_kind}", tmp_path / f"b.{output_kind}"
    errors = predict(source, whole).errors
    for rows in range(4, 22, 4):
        with pytest.raises(Stop):
            predict(source, output, report=stopper(rows))
    done = predict(source, output)

    assert whole.read_bytes() == output.read_bytes()
    assert (done.rows, done.errors, done.resumed) == (22, errors, 20)
    assert leftovers(output) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("step", ["seal", "replace", "unlink"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_stopped_while_it_finishes_it_finishes(
    predict: Predict, tmp_path: Path, kind: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two of the last steps."""
    source, output = many(tmp_path, kind, 9), tmp_path / f"b.{kind}"
    predict(source, tmp_path / f"whole.{kind}")

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        if step == "seal":
            sink = "ParquetSink" if kind == "parquet" else "Sink"
            patch.setattr(f"lc_finetune.bulk.sink.{sink}.seal", stop)
        elif step == "replace":
            original = os.replace
            patch.setattr(os, "replace", lambda a, b: stop() if Path(b) == output else original(a, b))
        else:
            unlink = Path.unlink
            patch.setattr(Path, "unlink", lambda p, **k: stop() if p.suffix == ".json" else unlink(p, **k))
        with pytest.raises(Stop):
            predict(source, output)
    done = predict(source, output)

    assert done.rows == 9
    assert (tmp_path / f"whole.{kind}").read_bytes() == output.read_bytes()
    assert leftovers(output) == []


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_input_that_changed_is_not_gone_on_with(predict: Predict, tmp_path: Path, kind: str) -> None:
    """Unless told to start over; then nothing of the old rows is left."""
    source, output = many(tmp_path, kind, 20), tmp_path / "b.csv"
    with pytest.raises(Stop):
        predict(source, output, report=stopper(8))
    if kind == "parquet":
        pq.write_table(pq.read_table(source).slice(1), source)
    else:
        write(source, source.read_bytes().replace(b"card 2", b"cash 2"))

    with pytest.raises(ConfigError, match=r"found (other rows|another input).*--overwrite"):
        predict(source, output)
    assert predict(source, output, overwrite=True).resumed == 0
    predict(source, tmp_path / "c.csv")
    assert (tmp_path / "c.csv").read_bytes() == output.read_bytes()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("options", "named"),
    [({"scores": True}, "added columns"), ({"prefix": "p_"}, "added columns"), ({"text_column": "id"}, "text column")],
)
def test_other_options_are_named(predict: Predict, tmp_path: Path, options: dict[str, Any], named: str) -> None:
    """What was begun is gone on with by the same command only."""
    source, output = many(tmp_path, "csv", 20), tmp_path / "b.csv"
    with pytest.raises(Stop):
        predict(source, output, report=stopper(8))

    with pytest.raises(ConfigError, match=named):
        predict(source, output, **options)


@pytest.mark.usefixtures("small_chunks")
def test_another_checkpoint_is_named(predict: Predict, tmp_path: Path) -> None:
    """Two models are never mixed in one output."""
    source, output = many(tmp_path, "csv", 20), tmp_path / "b.csv"
    with pytest.raises(Stop):
        predict(source, output, report=stopper(8))

    with pytest.raises(ConfigError, match="another checkpoint"):
        predict(source, output, checkpoint=tiny_checkpoint(tmp_path / "other", seed=1).path)


@pytest.mark.usefixtures("small_chunks")
def test_another_export_is_named(predict: Predict, tmp_path: Path) -> None:
    """An export that was made anew may answer differently."""
    source, output = many(tmp_path, "csv", 20), tmp_path / "b.csv"
    checkpoint = tiny_checkpoint(tmp_path / "c", onnx=True).path
    with pytest.raises(Stop):
        predict(source, output, checkpoint=checkpoint, report=stopper(8))
    export(checkpoint, texts=["other texts"])

    with pytest.raises(ConfigError, match="another export"):
        predict(source, output, checkpoint=checkpoint)


@pytest.mark.usefixtures("small_chunks")
def test_overwrite_goes_on_with_its_own_work(predict: Predict, tmp_path: Path) -> None:
    """So that the command that was stopped can be repeated as it was; the old output stays until the new is whole."""
    source, output = many(tmp_path, "csv", 20), write(tmp_path / "b.csv", "old")
    with pytest.raises(Stop):
        predict(source, output, overwrite=True, report=stopper(8))

    assert output.read_text() == "old"
    assert predict(source, output, overwrite=True).resumed == 8


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("name", "broken", "fixed", "line"),
    [
        ("a.csv", "1,a,b\n", '1,"a,b"\n', 14),
        ("a.csv", '1,"a\n', '1,"a"\n', 14),
        ("a.csv", b"1,\xff\n", "1,x\n", 14),
        ("a.csv", "1,\0\n", "1,x\n", 14),
        ("a.jsonl", '{"text": \n', '{"text": "a"}\n', 13),
        ("a.jsonl", "[1]\n", '{"text": "a"}\n', 13),
        ("a.jsonl", "[" * 100_000 + "\n", '{"text": "a"}\n', 13),
        ("a.jsonl", b'{"text": "\xff"}\n', '{"text": "a"}\n', 13),
    ],
)
def test_a_broken_row_stops_the_run_and_once_mended_it_goes_on(
    predict: Predict, tmp_path: Path, name: str, broken: str | bytes, fixed: str, line: int
) -> None:
    """File and line are named; what was done is kept."""
    start, row = ("id,text\n", "1,a\n") if name == "a.csv" else ("", '{"text": "a"}\n')
    good = (start + 12 * row).encode()
    write(tmp_path / name, good + (broken if isinstance(broken, bytes) else broken.encode()))
    with pytest.raises(DataError, match=f"{name}:{line}: expected"):
        predict(tmp_path / name, tmp_path / "b.jsonl")
    write(tmp_path / name, good + fixed.encode())
    done = predict(tmp_path / name, tmp_path / "b.jsonl")

    assert done.rows == 13
    assert done.resumed in (4, 8)
    assert len(read(tmp_path / "b.jsonl")) == 13


def test_a_quote_left_open_does_not_swallow_the_memory(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has a greatest length; its first line is named."""
    monkeypatch.setattr("lc_finetune.bulk.source.RECORD_BYTES", 1000)

    with pytest.raises(DataError, match=r"a\.csv:3: .*quote"):
        predict(write(tmp_path / "a.csv", 'text\na\n"b\n' + 1000 * "c\n"), tmp_path / "b.csv")


@pytest.mark.usefixtures("small_chunks")
def test_a_full_disk_is_one_clear_error_and_the_run_goes_on_later(
    predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done stays."""
    import errno

    from lc_finetune.bulk.work import Work

    source, output, append = many(tmp_path, "csv", 20), tmp_path / "b.csv", Work.append

    def full(work: Work, content: bytes, position: Any, errors: int) -> None:
        if position.rows > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(work, content, position, errors)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "append", full)
        with pytest.raises(ConfigError, match="No space left"):
            predict(source, output)
    assert predict(source, output).resumed == 8


@pytest.mark.usefixtures("small_chunks")
def test_two_runs_never_write_one_output(predict: Predict, tmp_path: Path) -> None:
    """The second is refused while the first is at it."""
    source, output = many(tmp_path, "csv", 20), tmp_path / "b.csv"

    def again(_: Progress) -> None:
        with pytest.raises(ConfigError, match="another process"):
            predict(source, output, overwrite=True)

    assert predict(source, output, report=again).rows == 20


# What is refused.


@pytest.mark.parametrize("column", ADDED)
def test_a_column_is_never_overwritten(predict: Predict, tmp_path: Path, column: str) -> None:
    """Refused before any work, with the way out; which works."""
    write(tmp_path / "a.csv", f"text,{column}\na,mine\n")
    write(tmp_path / "a.jsonl", json.dumps({"text": "a", column: "mine"}))
    for source in (tmp_path / "a.csv", tmp_path / "a.jsonl"):
        output = tmp_path / f"b{source.suffix}"
        with pytest.raises(ConfigError, match=f"'{column}'.*--prefix predicted_"):
            predict(source, output)
        predict(source, output, prefix="predicted_")
        row = read(output)[0]
        assert row[column] == "mine"
        assert ["text", column, *(f"predicted_{name}" for name in ADDED)] == list(row)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_field_of_a_later_row_is_not_overwritten_either(predict: Predict, tmp_path: Path, kind: str) -> None:
    """JSONL rows may differ; the line is named."""
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "a", "label": "mine"}\n')

    with pytest.raises(ConfigError, match=r"a\.jsonl:2: .*'label'"):
        predict(source, tmp_path / f"b.{kind}")


def test_a_surrogate_is_refused_where_it_cannot_be_written(predict: Predict, tmp_path: Path) -> None:
    """Before any work; JSONL to JSONL keeps it."""
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "a", "x": ["\\udfff"]}\n')

    with pytest.raises(DataError, match=r"a\.jsonl:2: .*surrogate"):
        predict(source, tmp_path / "b.csv")
    assert predict(source, tmp_path / "b.jsonl").errors == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input", "a.json"], "Use JSONL"),
        (["--output", "b.json"], "Use JSONL"),
        (["--input", "nowhere.csv"], "nowhere.csv"),
        (["--output", "b.xlsx"], ".parquet"),
        (["--output", "a.csv"], "same file"),
        (["--output", "link.csv"], "same file"),
        (["--output", "old.csv"], "--overwrite"),
        (["--output", "theirs.csv"], "one without"),
        (["--text-column", "txt"], "did you mean 'text'"),
        (["--device", "tpu"], "tpu"),
        (["--backend", "magic"], "magic"),
        (["--input", "empty.csv"], "utterance, …), found none."),
        (["--input", "fake.parquet"], "expected a Parquet file"),
        (["--ouput", "x"], "did you mean '--output'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    expected: str,
    tiny_classifier: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Never a traceback, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "old.csv", "a.json", "theirs.csv.part", "fake.parquet"):
        write(tmp_path / name, "text\nhello\n")
    write(tmp_path / "empty.csv", "")
    os.link("a.csv", "link.csv")
    before = sorted(os.listdir())
    basic = ["--input", "a.csv", "--output", "b.csv", "--device", "cpu"]
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        basic = [*basic, option, value]

    assert main(["predict", str(tiny_classifier.path), *basic]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) == 1
    assert before == sorted(os.listdir())


def test_scores_of_a_tagger_are_refused(predict: Predict, tiny_tagger: Checkpoint, tmp_path: Path) -> None:
    """Each entity has its own."""
    with pytest.raises(ConfigError, match="--scores with a classifier"):
        predict(write(tmp_path / "a.csv", "text\na\n"), tmp_path / "b.csv", checkpoint=tiny_tagger.path, scores=True)


def test_a_parquet_column_that_holds_no_texts_is_refused(predict: Predict, tmp_path: Path) -> None:
    """Its type says so before any row is read."""
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")

    with pytest.raises(DataError, match="int64"):
        predict(tmp_path / "a.parquet", tmp_path / "b.parquet")


# The command.


def test_the_command_reports_rows_rate_and_errors(
    tiny_classifier: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress on stderr, one line on stdout; --quiet has neither."""
    source = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": 1}\n')
    basic = ["predict", str(tiny_classifier.path), "--device", "cpu", "--input", str(source), "--output"]

    assert main([*basic, str(tmp_path / "b.csv")]) == 0
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert "rows/s" in shown.err
    assert "2 rows in" in shown.out
    assert "1 without an answer" in shown.out
    assert main([*basic, str(tmp_path / "c.csv"), "--quiet"]) == 0
    assert tuple(capsys.readouterr()) == ("", "")


def test_ctrl_c_is_one_line_and_the_same_command_goes_on(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Exit status 130, no traceback."""
    source, output = many(tmp_path, "csv", 1000), tmp_path / "b.csv"
    run = start(tiny_classifier, source, output)
    while run.is_alive() and not rows_recorded(output):
        time.sleep(0.001)
    os.kill(run.pid, signal.SIGINT)
    run.join()

    assert run.exitcode == 130
    last = (tmp_path / "b.csv.err").read_text().splitlines()[-1]
    assert last == "lc-finetune: interrupted; the same command goes on where it stopped."
    start(tiny_classifier, source, output).join()
    assert "by earlier runs" in (tmp_path / "b.csv.out").read_text()
    assert list(range(1000)) == [int(row["id"]) for row in read(output)]


def test_an_unfinished_journal_holds_no_text(predict: Predict, tmp_path: Path) -> None:
    """And the partial file is for its owner alone."""
    source = write(tmp_path / "a.csv", "text\n" + "secret\n" * 3000)
    with pytest.raises(Stop):
        predict(source, tmp_path / "b.csv", report=stopper(1024))

    assert "secret" not in (tmp_path / "b.csv.part.json").read_text()
    assert stat.S_IMODE((tmp_path / "b.csv.part").stat().st_mode) == 0o600


def test_a_mistyped_option_is_named_before_the_one_that_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """With a guess, which "--input is required" would not give."""
    assert main(["predict", "c", "--inptu", "a.csv", "--output", "b.csv"]) == 2
    assert "found '--inptu' (did you mean '--input'?)" in capsys.readouterr().err
