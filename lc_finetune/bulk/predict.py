"""A file of texts, of any size, and a checkpoint → the same file with results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.bulk.answers import Answers, columns_of, is_text, not_a_text
from lc_finetune.bulk.sink import Sink, open_sink
from lc_finetune.bulk.source import Chunk, Source, TextColumns, open_source
from lc_finetune.bulk.work import Work
from lc_finetune.checkpoint import PAIRS, RELATIONS, Checkpoint
from lc_finetune.errors import ConfigError
from lc_finetune.inference.backends import BackendName, Dtype
from lc_finetune.inference.predictor import Predictor
from lc_finetune.inference.served import check_served
from lc_finetune.markers import as_marked

CHUNK_ROWS = {"cpu": 1024, "mps": 4096, "cuda": 4096}
"""Rows scored and written together, by kind of device: several full forwards."""


class PredictConfig(BaseModel):
    """What a bulk prediction is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str = Field(description="Checkpoint folder, URL, or Hub id.")
    input: Path = Field(description="CSV, TSV, JSONL or Parquet file with a text in each row.")
    output: Path = Field(description="Where the rows go, with their results; CSV, TSV, JSONL or Parquet.")
    text_column: str | None = Field(default=None, description="Column of the text; recognised if omitted.")
    text_pair_column: str | None = Field(default=None, description="Column of the second text of a pair, likewise.")
    scores: bool = Field(default=False, description="Add the probability of every label.")
    prefix: str = Field(default="", description="Put before the names of the added columns.")
    overwrite: bool = Field(default=False, description="Replace an output that exists, or other unfinished work.")
    revision: str | None = Field(default=None, description="Branch, tag or commit of a Hub id.")
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Dtype = Field(default="auto", description="auto is float32 on CPU and MPS, bfloat16 on CUDA.")
    backend: BackendName = Field(default="auto", description="auto is the fastest that the folder holds.")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        rows: Rows done, those of earlier runs included.
        errors: Rows among them that have no answer, and say why in `error`.
        resumed: Rows that earlier runs had done.
        seconds: Since scoring began.
        share: Part of the input done, from 0 to 1.
    """

    rows: int
    errors: int
    resumed: int
    seconds: float
    share: float

    @property
    def rate(self) -> float:
        """Rows of this run per second."""
        return (self.rows - self.resumed) / self.seconds if self.seconds else 0.0


Report = Callable[[Progress], None]
Answered = Iterator[tuple[Chunk, Iterator[Any]]]
"""Chunks, each with the outcomes of its texts in order; those of values that are no texts left out."""


def predict_file(config: PredictConfig, *, report: Report | None = None) -> Progress:
    """Score every row of a file, in constant memory, and write the rows with their results to another.

    Columns of the input stay as they are. A row without a text gets no answer but an `error`. A run that was stopped,
    at whatever moment, is taken up by the same call, and ends with the very output of a run that was not.

    Args:
        config: Files, checkpoint and options.
        report: Called after each chunk.

    Raises:
        CheckpointError: If the checkpoint cannot be served.
        ConfigError: If a path or an option cannot be used, or the disk is full.
        DataError: If the input is broken; names file and line. What was done until then is kept.
    """
    with file_faults(config.output):
        return _predict(config, report or (lambda _: None))


@contextmanager
def file_faults(output: Path) -> Iterator[None]:
    """Say which file cannot be read or written, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{error.filename or output}: expected a file that can be read or written, found: "
            f"{error.strerror or type(error).__name__}. What was done is kept; the same command goes on."
        ) from error


def _predict(config: PredictConfig, report: Report) -> Progress:
    check_apart(config.input, config.output)
    checkpoint = _served(config)
    wanted = TextColumns(config.text_column, config.text_pair_column, checkpoint.task)
    with closing(open_source(config.input, wanted)) as source:
        columns = columns_of(checkpoint.task, scores=config.scores)
        answers = Answers(columns, checkpoint.labels, prefix=config.prefix)
        with Work(config.output, overwrite=config.overwrite) as work:
            sink = open_sink(config.output, source, answers)
            predictor = Predictor.load(checkpoint, device=config.device, dtype=config.dtype, backend=config.backend)
            work.start(_identity(config, source, sink, predictor, answers), source.seek)
            answered = _answered(predictor, source.chunks(rows=_chunk_rows(predictor)))
            progress = carry_out(answered, source, sink, answers, work, report)
            work.finish(sink, like=config.input)
    return progress


def check_apart(source: Path, output: Path) -> None:
    """Refuse to write over the input."""
    if source.resolve() == output.resolve() or (output.exists() and source.exists() and source.samefile(output)):
        raise ConfigError(f"{output}: expected an output apart from the input, found the same file. Name another one.")


def _served(config: PredictConfig) -> Checkpoint:
    checkpoint = Checkpoint.load(config.checkpoint, revision=config.revision)
    check_served(checkpoint, checkpoint.task)
    if config.text_pair_column is not None and checkpoint.task not in PAIRS:
        raise ConfigError(
            f"{checkpoint.path}: expected a checkpoint for text pairs, or questions, for --text-pair-column, found one "
            f"for {checkpoint.task}. Leave it out."
        )
    return checkpoint


def _identity(
    config: PredictConfig, source: Source, sink: Sink, predictor: Predictor, answers: Answers
) -> dict[str, Any]:
    """All that the output depends on, apart from the rows that a journal's position covers."""
    backend = predictor.backend
    return {
        "input": source.identity,
        "formats": f"{config.input.suffix.lower()} to {config.output.suffix.lower()}",
        "text_column": column_names(source),
        "columns": sink.schema,
        "added_columns": list(answers.names),
        "checkpoint": predictor.checkpoint.digest,
        "backend": f"{backend.name} {backend.precision} on {predictor.device}",
        "export": predictor.export,
        "chunk_rows": _chunk_rows(predictor),
    }


def column_names(source: Source) -> str | None:
    """Name the text columns of a source."""
    return " and ".join(source.text_columns) or None


def _chunk_rows(predictor: Predictor) -> int:
    return CHUNK_ROWS[predictor.device.partition(":")[0]]


def carry_out(answered: Answered, source: Source, sink: Sink, answers: Answers, work: Work, report: Report) -> Progress:
    """Write chunk after chunk with its answers, from where the work stands."""
    journal = work.journal
    assert journal is not None
    started, resumed, errors = time.monotonic(), journal.position.rows, journal.errors
    progress = Progress(resumed, errors, resumed, 0.0, journal.position.offset / max(1, source.size))
    if journal.complete:
        return progress
    if not journal.size:
        work.append(sink.head(), journal.position, errors)
    report(progress)
    for chunk, results in answered:
        columns = source.text_columns
        outcomes = [next(results) if is_text(text) else not_a_text(text, columns) for text in chunk.texts]
        errors += sum(isinstance(outcome, Exception) for outcome in outcomes)
        work.append(sink.body(chunk, [answers.row(outcome) for outcome in outcomes]), chunk.end, errors)
        share = chunk.end.offset / max(1, source.size)
        progress = Progress(chunk.end.rows, errors, resumed, time.monotonic() - started, share)
        report(progress)
    return progress


def _answered(predictor: Predictor, chunks: Iterator[Chunk]) -> Answered:
    """Pair each chunk with the results of its texts; one chunk is read ahead while another is in the engine."""
    chunks, ahead = tee(chunks)
    given = as_marked if predictor.checkpoint.task == RELATIONS else _unchanged
    texts = ([given(text) for text in chunk.texts if is_text(text)] for chunk in ahead)
    return zip(chunks, map(iter, predictor.predict_stream(texts)), strict=True)


def _unchanged(text: Any) -> Any:
    return text
