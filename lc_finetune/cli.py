"""The command line; the only place that prints."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, get_args, get_origin

from lc_finetune.errors import ConfigError, LCFinetuneError, MissingDependencyError, did_you_mean
from lc_finetune.train.processes import follows, one_speaker, part_ways

if TYPE_CHECKING:
    from pydantic import BaseModel

    from lc_finetune.bulk import Progress
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.data import Example, Loaded
    from lc_finetune.schemas import Input
    from lc_finetune.train.config import TrainConfig

C = TypeVar("C", bound="BaseModel")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            self._refuse(unknown.split()[0])
        raise ConfigError(f"{message}. See --help.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; a mistyped command or option is named, with a guess, before what it leaves missing."""
        commands = [name for action in self._nesting() for name in action.choices]
        for given in takewhile(lambda one: one != "--", args or ()):
            if given.startswith("--") and given.partition("=")[0] not in self._option_string_actions:
                self._refuse(given)
            if commands and not given.startswith("-"):
                if given not in commands:
                    guess = did_you_mean(given, commands)
                    raise ConfigError(f"Expected a command, found {given!r}{guess}. See --help.")
                break  # what follows is the command's
        return super().parse_known_args(args, namespace)

    def _refuse(self, given: str) -> NoReturn:
        flag = given.partition("=")[0]
        known = [name for action in self._every_action() for name in action.option_strings]
        raise ConfigError(f"Expected a known option, found {flag!r}{did_you_mean(flag, known)}.")

    def _nesting(self) -> list[argparse._SubParsersAction[Self]]:
        return [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]

    def _every_action(self) -> list[argparse.Action]:
        nested = [parser for action in self._nesting() for parser in action.choices.values()]
        return [*self._actions, *(action for parser in nested for action in parser._actions)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for a user's error, 3 for drift asked about, 130 after Ctrl-C."""
    goes_on = "nothing was begun"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label must not end a run on a terminal of few characters
    try:
        arguments = _parser().parse_args(sys.argv[1:] if argv is None else argv)
        goes_on = arguments.goes_on
        status: int | None = arguments.run(arguments)
        return status or 0
    except LCFinetuneError as error:
        print(f"lc-finetune: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if not follows():  # the first process says it for all
            print(f"lc-finetune: interrupted; {goes_on}.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lc-finetune", description="Fine-tuned encoders as LangChain Runnables.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"lc-finetune {version('lc-finetune')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(commands)
    _add_export(commands)
    _add_calibrate(commands)
    _add_evaluate(commands)
    _add_inspect(commands)
    _add_predict(commands)
    _add_label(commands)
    _add_explain(commands)
    _add_serve(commands)
    _add_playground(commands)
    return parser


def _add_train(commands: Any) -> None:
    from lc_finetune.train.config import TrainConfig

    train = commands.add_parser(
        "train", help="fine-tune a base model on labelled data, or pre-train it on text", allow_abbrev=False,
        description="Fine-tune a base model. With no options: on the bundled sample, with the bundled base model.",
    )  # fmt: skip
    train.add_argument("--config", metavar="FILE", help="YAML or JSON file of the same fields; options win over it.")
    for name, field in TrainConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            train.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=field.description)
        elif name != "trainer":  # a mapping, for configuration files
            default = "" if field.default in (None, (), {}) else f" Default: {field.default}."
            train.add_argument(flag, metavar="VALUE", help=f"{field.description}{default}")
    train.set_defaults(run=_train, goes_on="a training run goes on with the same command and --resume")


def _train(arguments: argparse.Namespace) -> None:
    from lc_finetune.train.config import TrainConfig

    given = {
        name: value
        for name, value in vars(arguments).items()
        if value is not None and name not in ("run", "goes_on", "config")
    }
    config = TrainConfig.from_file(arguments.config, given) if arguments.config else TrainConfig.of(given)
    with one_speaker():
        if config.task == "mlm":
            _pre_train(config)
        elif config.task == "seq2seq":
            _train_generator(config)
        else:
            _fine_tune(config)
    part_ways()


def _pre_train(config: TrainConfig) -> None:
    from lc_finetune.train.pretraining import pre_train, pretraining_table

    model = pre_train(config, say=print)
    print(pretraining_table(model.metrics))
    print(
        f"\nWritten to {model.path}. Fine-tune it on labelled rows:\n\n"
        f"    python -m lc_finetune.train --base-model {model.path} --train-file …"
    )


def _train_generator(config: TrainConfig) -> None:
    from lc_finetune.train.generation import generation_table, train_generator

    generator = train_generator(config, say=print)
    print(generation_table(generator.metrics))
    if config.train_file is None:
        print("\nThe bundled sample shows how things work; its figures say nothing of quality.")
    print(
        f"\nWritten to {generator.path}. Load it in Python:\n\n"
        "    from lc_finetune import TextGenerator\n"
        f'    model = TextGenerator.from_checkpoint("{generator.path}")\n'
        '    model.invoke("…").text'
    )


def _fine_tune(config: TrainConfig) -> None:
    from lc_finetune.checkpoint import RUNNABLES, example_of
    from lc_finetune.confidence import calibration_table
    from lc_finetune.remote import is_url
    from lc_finetune.train.report import report_table
    from lc_finetune.train.tasks import TASKS
    from lc_finetune.train.trainer import fine_tune

    checkpoint = fine_tune(config, say=print)
    print(report_table(TASKS[checkpoint.task], checkpoint.metrics))
    for i, one in enumerate(checkpoint.manifest.calibration if checkpoint.manifest else ()):
        print(f"\n{calibration_table(one, diagram=i == 0)}")
    if config.train_file is None:
        print("\nThe bundled sample shows how things work; its figures say nothing of quality.")
    runnable = RUNNABLES[checkpoint.task]
    place = config.output_dir if is_url(config.output_dir) else checkpoint.path
    print(
        f"\nWritten to {place}. Load it in Python:\n\n"
        f"    from lc_finetune import {runnable}\n"
        f'    model = {runnable}.from_checkpoint("{place}")\n'
        f"    model.invoke({example_of(checkpoint.task)})"
    )


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export", help="write the model for another runtime into the checkpoint", allow_abbrev=False,
        description="Write the model for another runtime into the checkpoint, if it gives the same answers.",
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="The checkpoint folder.")
    parser.add_argument(
        "--format", required=True, choices=["onnx", "openvino", "torch", "saved-model"],
        help="The runtime; saved-model is TensorFlow's.",
    )  # fmt: skip
    parser.add_argument("--precision", default="fp32", choices=["fp32", "fp16", "int8"], help="Default: fp32.")
    parser.add_argument(
        "--calibration-file", metavar="FILE",
        help="Held-out labelled rows, on which the export is compared with the checkpoint; for int8, which needs them, "
        "some set the scales. Default: the texts of the bundled samples.",
    )  # fmt: skip
    _add_columns(parser)
    parser.add_argument("--force", action="store_true", help="Keep the export even if its answers differ too much.")
    parser.set_defaults(run=_export, goes_on="the checkpoint is as it was")


def _add_columns(parser: argparse.ArgumentParser) -> None:
    for name in ("text-column", "text-pair-column", "label-column"):
        parser.add_argument(
            f"--{name}", metavar="NAME", help="Of the file of labelled rows; recognised by name if left out."
        )
    parser.add_argument("--label-names", metavar="A,B,…", help="Names for integer labels, or a file of them.")
    parser.add_argument("--label-map", metavar="FILE", help="New names of labels, as to train: old name: new name.")
    parser.add_argument("--label-delimiter", metavar="TEXT", help="What stands between the labels of a cell.")


def _labelled(path: str, arguments: argparse.Namespace, checkpoint: Checkpoint) -> Loaded:
    """Read rows as the checkpoint's task has them; rows for a tagger are read as they are."""
    from lc_finetune.data import ReadOptions, read_examples, read_label_map, read_label_names

    names = read_label_names(arguments.label_names) if arguments.label_names else ()
    options = ReadOptions(
        arguments.text_column, arguments.label_column, names, task=checkpoint.task,
        label_delimiter=arguments.label_delimiter, text_pair_column=arguments.text_pair_column,
        label_map=read_label_map(arguments.label_map) if arguments.label_map else {},
    )  # fmt: skip
    return read_examples(path, options)


def _export(arguments: argparse.Namespace) -> None:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.data import gold_of, inputs_of
    from lc_finetune.inference.export import export, parity_table
    from lc_finetune.inference.exported import SHORT, ExportedName
    from lc_finetune.remote import refuse_url

    refuse_url(arguments.checkpoint, "export")
    checkpoint = Checkpoint.load(arguments.checkpoint)
    texts: list[Input] = []
    gold: Any = None
    if arguments.calibration_file:
        loaded = _labelled(arguments.calibration_file, arguments, checkpoint)
        texts = inputs_of(loaded.examples)
        if loaded.task == checkpoint.task:
            gold = gold_of(loaded.examples)
    precision = next(name for name, short in SHORT.items() if short == arguments.precision)
    made = export(
        checkpoint, format=arguments.format, precision=precision, texts=texts, gold=gold,
        source=f"of {Path(arguments.calibration_file or '').name}", force=arguments.force,
    )  # fmt: skip
    print(f"Written to {made.folder}.\n\n{parity_table(made.manifest)}")
    if arguments.format in get_args(ExportedName) and checkpoint.task != "regression":
        print(f"\n{_confidence_of_export(checkpoint, arguments, precision, texts, gold)}")


def _confidence_of_export(
    checkpoint: Checkpoint, arguments: argparse.Namespace, precision: Any, texts: list[Input], gold: Any
) -> str:
    """Calibrate a new export on the labelled rows at hand, or say what its scores are worth."""
    from lc_finetune.confidence import calibration_table
    from lc_finetune.inference import Predictor
    from lc_finetune.inference.acceptance import DEFAULT, Aim
    from lc_finetune.inference.calibrate import Way, calibrate, record

    if gold is None:
        served = Predictor.load(checkpoint, device="cpu", backend=arguments.format, dtype=precision).calibration
        if served is not None and served.backend == "torch":
            return "Its scores take torch's calibration, from whose logits its own differ by rounding."
        if served is not None:
            return "Its scores keep their calibration: it is the same export as before."
        return (
            "Its scores are uncalibrated. Give labelled rows with --calibration-file, or calibrate the folder: "
            f"lc-finetune calibrate {checkpoint.path} FILE"
        )
    known = checkpoint.manifest.calibration if checkpoint.manifest else ()
    asked = next((one.acceptance.asked for one in known if one.acceptance), DEFAULT)
    try:
        calibration = calibrate(
            checkpoint, texts, gold, split=f"rows of {Path(arguments.calibration_file).name}", aim=Aim.parse(asked),
            way=Way(arguments.format, "cpu", precision),
        )  # fmt: skip
    except ConfigError as error:  # the export is made, whatever these rows are worth
        return f"Its scores are uncalibrated. {error}"
    record(checkpoint, [calibration])
    return calibration_table(calibration, diagram=False)


def _add_calibrate(commands: Any) -> None:
    from lc_finetune.inference.acceptance import DEFAULT

    parser = commands.add_parser(
        "calibrate", help="make the scores of a checkpoint true, on labelled rows", allow_abbrev=False,
        description="Make the scores of a checkpoint probabilities, and choose which answers count as accepted, on "
        "labelled rows that the model has not learnt from. Works on plain Hugging Face folders too.",
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="The checkpoint folder.")
    parser.add_argument("file", metavar="FILE", help="Labelled rows: CSV, TSV, JSON, JSONL, Parquet or CoNLL.")
    parser.add_argument(
        "--accept", metavar="AIM", default=DEFAULT,
        help="precision=0.95, coverage=0.9, score=0.8, or cost=20 (of a wrong answer, in referrals); the last two with "
        "others for some labels, as in score=0.8,LABEL=0.95; or cost=FILE.csv, with the cost of each mistake. Default: "
        f"{DEFAULT}.",
    )  # fmt: skip
    _add_columns(parser)
    parser.set_defaults(run=_calibrate, goes_on="the checkpoint is as it was")


def _calibrate(arguments: argparse.Namespace) -> None:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.confidence import calibration_table
    from lc_finetune.data import gold_of, inputs_of
    from lc_finetune.inference.acceptance import Aim
    from lc_finetune.inference.calibrate import calibrate, check_reached, record, served_ways
    from lc_finetune.inference.served import check_served
    from lc_finetune.inspection import reference_of, write_reference
    from lc_finetune.remote import refuse_url

    aim = Aim.parse(arguments.accept)
    refuse_url(arguments.checkpoint, "calibrate")
    if not Path(arguments.checkpoint).is_dir():
        raise ConfigError(f"Expected a checkpoint folder to write to, found none at {arguments.checkpoint}.")
    checkpoint = Checkpoint.load(arguments.checkpoint)
    check_served(checkpoint, checkpoint.task)
    if checkpoint.task == "regression":
        raise ConfigError(
            f"{checkpoint.path}: expected a classifier or a tagger, found a regressor. Its numbers have intervals from "
            "training instead."
        )
    loaded = _labelled(arguments.file, arguments, checkpoint)
    if loaded.task != checkpoint.task:
        raise ConfigError(f"{arguments.file}: expected rows for {checkpoint.task}, found rows for {loaded.task}.")
    texts, gold, split = inputs_of(loaded.examples), gold_of(loaded.examples), f"rows of {Path(arguments.file).name}"
    made = [calibrate(checkpoint, texts, gold, split=split, aim=aim, way=way) for way in served_ways(checkpoint)]
    check_reached(made)
    reference = reference_of(checkpoint, texts, source=split)
    record(checkpoint, made)
    if reference is not None:
        write_reference(checkpoint.path, reference)
    print("\n\n".join(calibration_table(one, diagram=i == 0) for i, one in enumerate(made)))
    print(f"\nRecorded in {checkpoint.path}.")


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate", help="measure a checkpoint on labelled rows", allow_abbrev=False,
        description="Answer labelled rows as the checkpoint is served, and say what is right and what is wrong. Works "
        "on plain Hugging Face folders too.",
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="A checkpoint folder, or a Hub id.")
    parser.add_argument("file", metavar="FILE", help="Labelled rows: CSV, TSV, JSON, JSONL, Parquet or CoNLL.")
    _add_columns(parser)
    parser.add_argument(
        "--out-of-scope-label", metavar="LABEL", help="Of rows that no class fits: measured apart, as in training."
    )
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="Write a page about it.")
    parser.add_argument(
        "--errors", type=Path, metavar="OUT.csv",
        help="Write the rows with a mistake as training reads them, to be corrected: OUT.jsonl for a tagger.",
    )  # fmt: skip
    parser.add_argument("--against", metavar="CHECKPOINT", help="Compare with another one on the same rows.")
    parser.add_argument("--show-texts", action="store_true", help="Show the texts of mistakes on the page.")
    parser.add_argument("--overwrite", action="store_true", help="Replace outputs that exist.")
    parser.set_defaults(run=_evaluate, goes_on="nothing was written")


def _evaluate(arguments: argparse.Namespace) -> None:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.evaluation import compare, comparison_table, evaluate, evaluation_page
    from lc_finetune.evaluation.corrections import SUFFIXES, errors_file
    from lc_finetune.evaluation.outputs import check_output, write_output
    from lc_finetune.inference import Predictor
    from lc_finetune.inference.served import check_served
    from lc_finetune.train.report import report_table
    from lc_finetune.train.tasks import TASKS
    from lc_finetune.train.writing import figures_of, figures_out_of_scope

    checkpoint = Checkpoint.load(arguments.checkpoint)
    against = Checkpoint.load(arguments.against) if arguments.against else None
    for one in filter(None, (checkpoint, against)):
        check_served(one, checkpoint.task)
    source = Path(arguments.file)
    for path, suffix, what in (
        (arguments.report, ".html", "the page"),
        (arguments.errors, SUFFIXES[checkpoint.task], f"the rows of a checkpoint for {checkpoint.task}"),
    ):
        if path is not None:
            check_output(path, suffix=suffix, what=what, source=source, overwrite=arguments.overwrite)
    loaded = _labelled(arguments.file, arguments, checkpoint)
    if loaded.task != checkpoint.task:
        raise ConfigError(f"{source}: expected rows for {checkpoint.task}, found rows for {loaded.task}.")
    predictor = Predictor.load(checkpoint)
    examples, outside = _in_scope(loaded, arguments.out_of_scope_label, source)
    evaluation = evaluate(predictor, examples, source=source.name)
    figures = figures_of(evaluation) | figures_out_of_scope(predictor, examples, outside)
    for note in loaded.notes:
        print(f"note: {note}")
    print(report_table(TASKS[checkpoint.task], {source.name: figures}))
    comparison = None
    if against is not None:
        other = evaluate(Predictor.load(against), examples, source=source.name)
        comparison = compare(evaluation, other, name=arguments.against)
        print(f"\n{comparison_table(comparison)}")
    if arguments.report is not None:
        page = evaluation_page(
            checkpoint, evaluation, {source.name: figures}, comparison=comparison, show_texts=arguments.show_texts,
            name=checkpoint.path.resolve().name if Path(arguments.checkpoint).is_dir() else arguments.checkpoint,
        )  # fmt: skip
        write_output(arguments.report, page, like=source)
        print(f"\nThe page: {arguments.report}")
    if arguments.errors is not None:
        write_output(arguments.errors, errors_file(evaluation), like=source)
        print(f"\n{len(evaluation.wrong):,} rows with a mistake: {arguments.errors}")


def _in_scope(loaded: Loaded, label: str | None, source: Path) -> tuple[Sequence[Example], Sequence[Example]]:
    """Take the rows out of scope from the others."""
    from lc_finetune.data import set_apart

    inside, outside = set_apart(loaded.examples, label) if label is not None else (loaded.examples, ())
    if not inside or (label is not None and not outside):
        raise ConfigError(
            f"{source}: expected rows with the label of --out-of-scope-label and others, found {len(outside)} with it "
            f"and {len(inside)} others. Correct the label, or leave it out."
        )
    return inside, outside


DRIFTED = 3
"""Exit status of `inspect --against FILE --fail-on-drift` if something moved."""


def _add_inspect(commands: Any) -> None:
    from lc_finetune.inspection import LEAST_EFFECT, MOST_ROWS, SIGNIFICANCE

    parser = commands.add_parser(
        "inspect", help="say what a checkpoint is, and whether texts have drifted", allow_abbrev=False,
        description="Say what a checkpoint is; with --against, whether the texts of a file differ from those that it "
        "was measured on: in scores, in-scope p-values, length, unknown pieces and labels given.",
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="A checkpoint folder, a URL, or a Hub id.")
    parser.add_argument("--against", type=Path, metavar="FILE", help="Texts of today, with labels or without.")
    parser.add_argument(
        "--reference", type=Path, metavar="FILE",
        help="Texts to compare them with, in place of what the checkpoint recorded of its held-out rows.",
    )  # fmt: skip
    for name in ("text-column", "text-pair-column"):
        parser.add_argument(f"--{name}", metavar="NAME", help="Of the files; recognised by name if left out.")
    parser.add_argument(
        "--rows", type=int, metavar="N", help=f"Texts drawn from a file, at most. Default: {MOST_ROWS:,}."
    )
    parser.add_argument(
        "--significance", type=float, metavar="P", help=f"Probability of any false alarm. Default: {SIGNIFICANCE}."
    )
    parser.add_argument(
        "--least-effect", type=float, metavar="SIZE",
        help=f"Effect size (D, w or h) below which a difference is none. Default: {LEAST_EFFECT}.",
    )  # fmt: skip
    parser.add_argument("--fail-on-drift", action="store_true", help=f"Exit with status {DRIFTED} if something moved.")
    parser.add_argument("--json", action="store_true", help="Write JSON.")
    parser.set_defaults(run=_inspect, goes_on="nothing was written")


def _inspect(arguments: argparse.Namespace) -> int:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.inspection import describe, description_table, drift, drift_table

    options = ("reference", "text_column", "text_pair_column", "rows", "significance", "least_effect", "fail_on_drift")
    given = {name: value for name in options if (value := getattr(arguments, name)) is not None and value is not False}
    if arguments.against is None:
        if given:
            named = " ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ConfigError(f"Expected --against FILE with {named}, found none. Name the file to compare.")
        description = describe(Checkpoint.load(arguments.checkpoint))
        print(description.model_dump_json(indent=2) if arguments.json else description_table(description))
        return 0
    given.pop("fail_on_drift", None)
    found = drift(Checkpoint.load(arguments.checkpoint), arguments.against, **given)
    print(found.model_dump_json(indent=2) if arguments.json else drift_table(found))
    return DRIFTED if found.moved and arguments.fail_on_drift else 0


def _add_predict(commands: Any) -> None:
    from lc_finetune.bulk.predict import PredictConfig

    predict = commands.add_parser(
        "predict", help="answer every row of a file", allow_abbrev=False,
        description="Answer every row of a CSV, TSV, JSONL or Parquet file of any size. Its columns stay as they are. "
        "After an interruption the same command goes on, without losing or doubling a row.",
    )  # fmt: skip
    _add_fields(predict, PredictConfig, positional="checkpoint", metavars={"checkpoint": "CHECKPOINT"})
    predict.add_argument("--quiet", action="store_true", help="Show no progress and no summary.")
    predict.set_defaults(run=_predict, goes_on="the same command goes on where it stopped")


def _predict(arguments: argparse.Namespace) -> None:
    from lc_finetune.bulk import PredictConfig, predict_file

    config = PredictConfig.model_validate({name: getattr(arguments, name) for name in PredictConfig.model_fields})
    if arguments.quiet:
        predict_file(config)
        return
    with _Bar() as bar:
        done = predict_file(config, report=bar.show)
    resumed = f" ({done.resumed:,} of them by earlier runs)" if done.resumed else ""
    errors = f"{done.errors:,} without an answer, see the column {config.prefix}error" if done.errors else "no errors"
    print(f"{config.output}: {done.rows:,} rows{resumed} in {done.seconds:,.1f} s, {done.rate:,.0f} rows/s; {errors}.")


def _add_label(commands: Any) -> None:
    from lc_finetune.bulk.label import LabelConfig

    label = commands.add_parser(
        "label", help="label every row of a file with a language model", allow_abbrev=False,
        description="Ask a chat model, or any Runnable that answers one of the labels, for the label of every row. "
        "Rows that it could not label go to a file of their own. After an interruption the same command goes on.",
    )  # fmt: skip
    metavars = {"input": "UNLABELLED", "model": "MODULE:RUNNABLE", "labels": "A,B,…"}
    _add_fields(label, LabelConfig, positional="input", metavars=metavars, flags={"model": "--with"})
    label.add_argument("--quiet", action="store_true", help="Show no progress and no summary.")
    label.set_defaults(run=_label, goes_on="the same command goes on where it stopped")


def _label(arguments: argparse.Namespace) -> None:
    from lc_finetune.bulk.label import LabelConfig, label_file, unlabelled

    given = {name: getattr(arguments, name) for name in LabelConfig.model_fields}
    given["labels"] = tuple(label.strip() for label in given["labels"].split(",")) if given["labels"] else ()
    if given["max_concurrency"] is not None and given["max_concurrency"] < 1:
        raise ConfigError(f"Expected --max-concurrency of 1 or more, found {given['max_concurrency']}.")
    config = LabelConfig.model_validate(given)
    if arguments.quiet:
        label_file(config)
        return
    with _Bar() as bar:
        done = label_file(config, report=bar.show)
    resumed = f" ({done.resumed:,} rows by earlier runs)" if done.resumed else ""
    apart = f"{done.errors:,} without a label are in {unlabelled(config.output)}" if done.errors else "none is left out"
    print(f"{config.output}: {done.rows - done.errors:,} of {done.rows:,} rows labelled{resumed}; {apart}.")


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain", help="show what in a text speaks for a label", allow_abbrev=False,
        description="Show which parts of a text speak for a classifier's label and which against it, and the training "
        "rows most like it, if the checkpoint keeps some (--keep-neighbours). Needs the extra explain.",
    )  # fmt: skip
    explain.add_argument("checkpoint", metavar="CHECKPOINT", help="A folder, a URL, or a Hub id.")
    explain.add_argument("text", metavar="TEXT", help="The text; - reads it from standard input.")
    explain.add_argument("--target", metavar="LABEL", help="The label to explain. Default: the most probable one.")
    explain.add_argument("--neighbours", metavar="N", type=int, default=5, help="Rows to show, at most. Default: 5.")
    explain.set_defaults(run=_explain, goes_on="nothing was written")


def _explain(arguments: argparse.Namespace) -> None:
    from lc_finetune import runnables
    from lc_finetune.checkpoint import RUNNABLES, Checkpoint

    try:
        from rich.console import Console
    except ImportError as error:
        raise MissingDependencyError(
            "Expected the package rich to show explanations, found none. "
            "Install it: pip install 'lc-finetune[explain]'."
        ) from error
    task = Checkpoint.load(arguments.checkpoint).task
    model = getattr(runnables, RUNNABLES[task])(checkpoint=arguments.checkpoint)
    try:
        text = sys.stdin.read() if arguments.text == "-" else arguments.text
    except UnicodeDecodeError as error:
        raise ConfigError(f"Expected a text in {error.encoding} on standard input, found other bytes.") from None
    explanation = model.explain(text, target=arguments.target, neighbours=arguments.neighbours)
    Console(file=sys.stdout).print(explanation)


def _add_serve(commands: Any) -> None:
    from lc_finetune.serving import ServeConfig

    serve = commands.add_parser(
        "serve", help="answer over HTTP", allow_abbrev=False,
        description="Serve checkpoints over HTTP: POST /predict, and POST /v1/systemone in the System One format. "
        "On this machine alone, unless there is a key in LC_FINETUNE_API_KEY. SIGTERM stops it in good order.",
    )  # fmt: skip
    _add_fields(serve, ServeConfig, positional="checkpoints", metavars={"checkpoints": "CHECKPOINT"})
    serve.set_defaults(run=_serve, goes_on="requests under way were answered")


def _serve(arguments: argparse.Namespace) -> None:
    from lc_finetune.serving import ServeConfig, serve

    serve(_validated(ServeConfig, arguments), say=lambda line: print(line, flush=True))


def _add_playground(commands: Any) -> None:
    from lc_finetune.playground import PlaygroundConfig

    page = commands.add_parser(
        "playground", help="a page to try a checkpoint on, and to correct its answers", allow_abbrev=False,
        description="Open a page on this machine: type a text, see the answer and what speaks for it, correct it. "
        "Corrections are added to a file that training reads. Needs the extra playground.",
    )  # fmt: skip
    _add_fields(page, PlaygroundConfig, positional="checkpoint", metavars={"checkpoint": "CHECKPOINT"})
    page.set_defaults(run=_playground, goes_on="what was added to the corrections is kept")


def _playground(arguments: argparse.Namespace) -> None:
    from lc_finetune.playground import PlaygroundConfig, playground

    playground(_validated(PlaygroundConfig, arguments), say=lambda line: print(line, flush=True))


def _validated(config: type[C], arguments: argparse.Namespace) -> C:
    """Make a configuration of the options that are its fields."""
    from pydantic import ValidationError

    try:
        return config.model_validate({name: getattr(arguments, name) for name in config.model_fields})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{flag}: {first['msg']}, found {first['input']!r}.") from error


def _add_fields(
    parser: Any,
    config: type[BaseModel],
    *,
    positional: str,
    metavars: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
) -> None:
    """Add an option for each field of a configuration, and the one argument that has no flag.

    Args:
        parser: Of the command.
        config: What the command makes of its options.
        positional: Field of the argument; several values if it is a tuple.
        metavars: Field → what stands for its value in the help; `VALUE` if left out.
        flags: Field → its flag, where that is not the field's name.
    """
    for name, field in config.model_fields.items():
        annotation, metavar = field.annotation, metavars.get(name, "VALUE")
        flag = (flags or {}).get(name, "--" + name.replace("_", "-"))
        if name == positional:
            several = {"nargs": "+"} if get_origin(annotation) is tuple else {}
            parser.add_argument(name, metavar=metavar, help=field.description, **several)
        elif annotation is bool:
            parser.add_argument(flag, action="store_true", help=field.description)
        else:
            choices = get_args(annotation) if get_origin(annotation) is Literal else None
            shown = "" if field.is_required() or field.default in (None, (), "") else f" Default: {field.default}."
            parser.add_argument(
                flag, dest=name, required=field.is_required(), default=None if field.is_required() else field.default,
                choices=choices, metavar=None if choices else metavar, help=f"{field.description}{shown}",
                type=int if annotation in (int, int | None) else str,
            )  # fmt: skip


class _Bar:
    """A progress bar on stderr; not there before the first report, so that an early error is one line."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, progress: Progress) -> None:
        """Move the bar."""
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=1.0,
                initial=progress.share,
                bar_format="{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
                mininterval=0.5 if sys.stderr.isatty() else 10.0,  # a log is no place for two lines a second
                file=sys.stderr,
            )
        self._bar.set_postfix_str(f"{progress.rows:,} rows, {progress.rate:,.0f} rows/s", refresh=False)
        self._bar.update(progress.share - self._bar.n)
