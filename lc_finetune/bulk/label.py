"""A file of texts and a language model → the same file with labels to train on, and the rows without one apart."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from lc_finetune.bulk.answers import Answers
from lc_finetune.bulk.predict import Answered, Progress, Report, carry_out, check_apart, column_names, file_faults
from lc_finetune.bulk.sink import SplitSink, open_sink
from lc_finetune.bulk.source import Chunk, Source, TextColumns, open_source
from lc_finetune.bulk.work import Work
from lc_finetune.checkpoint import ORDINAL, Checkpoint
from lc_finetune.errors import CheckpointError, ConfigError, InputError, did_you_mean
from lc_finetune.labels import LabelSet

if TYPE_CHECKING:
    from langchain_core.runnables import Runnable

    from lc_finetune.runnables.large import LargeModel

LABEL_ROWS = 64
"""Rows asked about in one batch and written together: what a kill can cost, in answers that were paid for."""
GIVE_UP_ROWS = 8
"""A batch of at least so many texts, none of which the model could be asked about, ends the run; of fewer, if the model
has not answered before: the last ones of a file may be texts that it never answers."""


class LabelConfig(BaseModel):
    """What labelling a file is told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Path = Field(description="CSV, TSV, JSONL or Parquet file with a text in each row.")
    model: str = Field(description="MODULE:RUNNABLE, a chat model or any Runnable that answers one of the labels.")
    output: Path = Field(description="Where labelled rows go; those without a label go to NAME.unlabelled beside it.")
    labels: tuple[str, ...] = Field(default=(), description="The labels, separated by commas.")
    checkpoint: str | None = Field(default=None, description="Checkpoint folder, or Hub id, whose labels are taken.")
    text_column: str | None = Field(default=None, description="Column of the text; recognised if omitted.")
    prefix: str = Field(default="", description="Put before the names of the added columns.")
    max_concurrency: int | None = Field(default=None, gt=0, description="Most questions asked at the same time.")
    overwrite: bool = Field(default=False, description="Replace an output that exists, or other unfinished work.")


def label_file(config: LabelConfig, *, report: Report | None = None) -> Progress:
    """Ask a language model for the label of every row of a file, in constant memory.

    Rows with a label go to the output, the label behind their own columns: what `--train-file` reads. Rows without
    one go to a file beside it (see `unlabelled`), each with an `error`. A run that was stopped is taken up by the same
    call, which asks again about the rows of the last batches at most.

    Args:
        config: Files, model, labels and options.
        report: Called after each batch.

    Raises:
        CheckpointError: If the checkpoint whose labels are wanted has none to give.
        ConfigError: If the model, a path or an option cannot be used, the disk is full, or a whole batch of questions
            failed. What was done until then is kept.
        DataError: If the input is broken; names file and line. What was done until then is kept.
    """
    with file_faults(config.output):
        return _label(config, report or (lambda _: None))


def unlabelled(output: Path) -> Path:
    """Name the file of the rows without a label: `NAME.unlabelled.csv` beside `NAME.csv`."""
    return output.with_name(f"{output.stem}.unlabelled{output.suffix}")


def _label(config: LabelConfig, report: Report) -> Progress:
    from lc_finetune.runnables.large import LargeModel

    apart = unlabelled(config.output)
    for output in (config.output, apart):
        check_apart(config.input, output)
    labels = _labels(config)
    model = LargeModel(load_runnable(config.model), labels.names)
    with closing(open_source(config.input, TextColumns(config.text_column))) as source:
        both = (Answers((name,), labels, prefix=config.prefix) for name in ("label", "error"))
        sinks = [open_sink(config.output, source, answers) for answers in both]
        sink = SplitSink(sinks[0], sinks[1], apart, like=config.input)
        answers = Answers(("label", "error"), labels, prefix=config.prefix)
        with Work(config.output, overwrite=config.overwrite) as work:
            _refuse_existing(apart, config, work)
            work.start(_identity(config, source, sink, answers), source.seek)
            assert work.journal is not None
            known = work.journal.position.rows > work.journal.errors
            answered = _answered(model, source.chunks(rows=LABEL_ROWS), config.max_concurrency, known=known)
            progress = carry_out(answered, source, sink, answers, work, report)
            work.finish(sink, like=config.input)
    return progress


def _labels(config: LabelConfig) -> LabelSet:
    if bool(config.labels) == bool(config.checkpoint):
        found = "both" if config.labels else "neither"
        raise ConfigError(f"Expected the labels from --labels or from --checkpoint, found {found}. Give one of them.")
    if config.checkpoint is None:
        if not all(label.strip() for label in config.labels):
            raise ConfigError("Expected labels separated by commas, found a blank one. Write --labels a,b,c.")
        return LabelSet(config.labels)
    checkpoint = Checkpoint.load(config.checkpoint)
    if checkpoint.task not in ("text-classification", ORDINAL):
        raise CheckpointError(f"{checkpoint.path}: expected a text classifier, found {checkpoint.task}. Give --labels.")
    return checkpoint.labels


def load_runnable(name: str) -> Runnable[Any, Any]:
    """Import what `MODULE:RUNNABLE` names; modules of the working directory are found too.

    Raises:
        ConfigError: If there is no such module, or it cannot be imported, or holds no such Runnable.
    """
    from langchain_core.runnables import Runnable

    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise ConfigError(f"Expected MODULE:RUNNABLE, found {name!r}. Write for example --with my_models:chat.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the code of a module raises
        raise ConfigError(
            f"{name}: expected a module that can be imported, found {type(error).__name__}: {error}."
        ) from error
    try:
        found = reduce(getattr, path.split("."), module)
    except AttributeError:
        guess = did_you_mean(path, vars(module))
        raise ConfigError(f"{name}: expected {path!r} in the module, found none{guess}.") from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{name}: expected {path!r} in the module, found {type(error).__name__}.") from error
    if not isinstance(found, Runnable):
        raise ConfigError(f"{name}: expected a Runnable, found {type(found).__name__}. Name a chat model or a chain.")
    return found


def _refuse_existing(apart: Path, config: LabelConfig, work: Work) -> None:
    ours = work.journal is not None and work.journal.complete  # it was being put in its place
    if apart.exists() and not config.overwrite and not ours:
        raise ConfigError(f"{apart}: expected no such file yet, found one. Choose another output, or pass --overwrite.")


def _identity(config: LabelConfig, source: Source, sink: SplitSink, answers: Answers) -> dict[str, Any]:
    """All that the output depends on, apart from the rows, and from what a model may answer another time."""
    return {
        "input": source.identity,
        "formats": f"{config.input.suffix.lower()} to {config.output.suffix.lower()}",
        "text_column": column_names(source),
        "columns": sink.schema,
        "added_columns": list(answers.names),
        "model": config.model,
        "labels": list(answers.labels.names),
        "chunk_rows": LABEL_ROWS,
    }


def _answered(model: LargeModel, chunks: Iterator[Chunk], max_concurrency: int | None, *, known: bool) -> Answered:
    """Pair each chunk with the answers; `known` says that the model has answered before."""
    from lc_finetune.parsers import AnswerError

    for chunk in chunks:
        texts = [text for text in chunk.texts if isinstance(text, str)]
        asked = [text for text in texts if text.strip()]
        answers = model.ask(asked, asked, {"max_concurrency": max_concurrency}) if asked else []
        faults = [one for one in answers if isinstance(one, Exception) and not isinstance(one, AnswerError)]
        if faults and len(faults) == len(answers) and not (known and len(answers) < GIVE_UP_ROWS):
            raise ConfigError(  # rather than call all the rest unlabelled
                f"Expected answers, found that all {len(answers)} questions of a batch failed, the first with "
                f"{type(faults[0]).__name__}. Mend the model; the same command goes on."
            ) from faults[0]
        known = known or len(faults) < len(answers)
        given = iter(answers)
        yield chunk, iter([next(given) if text.strip() else _blank() for text in texts])


def _blank() -> InputError:
    return InputError("Expected a text to label, found a blank one.")
