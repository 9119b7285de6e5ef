"""The command line; the only place that prints."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, get_args, get_origin

from lc_finetune.errors import ConfigError, LCFinetuneError, did_you_mean

if TYPE_CHECKING:
    from lc_finetune.bulk import Progress


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            self._refuse(unknown.split()[0])
        raise ConfigError(f"{message}. See --help.")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; in a command, a mistyped option is named before the required one that it leaves missing."""
        if not any(isinstance(action, argparse._SubParsersAction) for action in self._actions):
            for given in takewhile(lambda one: one != "--", args or ()):
                if given.startswith("--") and given.partition("=")[0] not in self._option_string_actions:
                    self._refuse(given)
        return super().parse_known_args(args, namespace)

    def _refuse(self, given: str) -> NoReturn:
        flag = given.partition("=")[0]
        known = [name for action in self._every_action() for name in action.option_strings]
        raise ConfigError(f"Expected a known option, found {flag!r}{did_you_mean(flag, known)}.")

    def _every_action(self) -> list[argparse.Action]:
        nested = [
            parser
            for action in self._actions
            if isinstance(action, argparse._SubParsersAction)
            for parser in action.choices.values()
        ]
        return [*self._actions, *(action for parser in nested for action in parser._actions)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for a user's error, 130 after Ctrl-C."""
    goes_on = "nothing was begun"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label must not end a run on a terminal of few characters
    try:
        arguments = _parser().parse_args(argv)
        goes_on = arguments.goes_on
        arguments.run(arguments)
        return 0
    except LCFinetuneError as error:
        print(f"lc-finetune: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"lc-finetune: interrupted; {goes_on}.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lc-finetune", description="Fine-tuned encoders as LangChain Runnables.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(commands)
    _add_export(commands)
    _add_predict(commands)
    return parser


def _add_train(commands: Any) -> None:
    from lc_finetune.train.config import TrainConfig

    train = commands.add_parser(
        "train", help="fine-tune a base model on labelled data", allow_abbrev=False,
        description="Fine-tune a base model. With no options: on the bundled sample, with the bundled base model.",
    )  # fmt: skip
    train.add_argument("--config", metavar="FILE", help="YAML or JSON file of the same fields; options win over it.")
    for name, field in TrainConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        if field.annotation is bool:
            train.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=field.description)
        elif name != "trainer":  # a mapping, for configuration files
            default = "" if field.default in (None, ()) else f" Default: {field.default}."
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
    from lc_finetune.train.report import report_table
    from lc_finetune.train.trainer import fine_tune

    checkpoint = fine_tune(config, say=print)
    print(report_table(checkpoint.metrics))
    if config.train_file is None:
        print("\nThe bundled sample shows how things work; its figures say nothing of quality.")
    runnable = "TextClassifier" if checkpoint.task == "text-classification" else "EntityTagger"
    print(
        f"\nWritten to {checkpoint.path}. Load it in Python:\n\n"
        f"    from lc_finetune import {runnable}\n"
        f'    model = {runnable}.from_checkpoint("{checkpoint.path}")\n'
        f'    model.invoke("…")'
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
    for name in ("text-column", "label-column"):
        parser.add_argument(
            f"--{name}", metavar="NAME", help="Of the calibration file; recognised by name if left out."
        )
    parser.add_argument("--label-names", metavar="A,B,…", help="Names for integer labels.")
    parser.add_argument("--force", action="store_true", help="Keep the export even if its answers differ too much.")
    parser.set_defaults(run=_export, goes_on="the checkpoint is as it was")


def _export(arguments: argparse.Namespace) -> None:
    from lc_finetune.checkpoint import Checkpoint
    from lc_finetune.data import ReadOptions, TextExample, read_examples
    from lc_finetune.inference.export import export, parity_table
    from lc_finetune.inference.exported import SHORT

    checkpoint = Checkpoint.load(arguments.checkpoint)
    texts: list[str] = []
    gold: Any = None
    if arguments.calibration_file:
        names = tuple(arguments.label_names.split(",")) if arguments.label_names else ()
        loaded = read_examples(
            arguments.calibration_file, ReadOptions(arguments.text_column, arguments.label_column, names)
        )
        texts = [example.text for example in loaded.examples]
        if loaded.task == checkpoint.task:
            gold = [one.label if isinstance(one, TextExample) else one.spans for one in loaded.examples]
    precision = next(name for name, short in SHORT.items() if short == arguments.precision)
    made = export(
        checkpoint, format=arguments.format, precision=precision, texts=texts, gold=gold,
        source=f"of {Path(arguments.calibration_file or '').name}", force=arguments.force,
    )  # fmt: skip
    print(f"Written to {made.folder}.\n\n{parity_table(made.manifest)}")


def _add_predict(commands: Any) -> None:
    from lc_finetune.bulk.predict import PredictConfig

    predict = commands.add_parser(
        "predict", help="answer every row of a file", allow_abbrev=False,
        description="Answer every row of a CSV, TSV, JSONL or Parquet file of any size. Its columns stay as they are. "
        "After an interruption the same command goes on, without losing or doubling a row.",
    )  # fmt: skip
    for name, field in PredictConfig.model_fields.items():
        flag = "--" + name.replace("_", "-")
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else None
        if name == "checkpoint":
            predict.add_argument(name, metavar="CHECKPOINT", help=field.description)
        elif field.annotation is bool:
            predict.add_argument(flag, action="store_true", help=field.description)
        else:
            predict.add_argument(
                flag, required=field.is_required(), default=field.default, choices=choices,
                metavar=None if choices else "VALUE", help=field.description,
            )  # fmt: skip
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
