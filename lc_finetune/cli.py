"""The command line; the only place that prints."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from lc_finetune.errors import ConfigError, LCFinetuneError, did_you_mean


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are ours."""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0].partition("=")[0]
            known = [name for action in self._every_action() for name in action.option_strings]
            raise ConfigError(f"Expected a known option, found {flag!r}{did_you_mean(flag, known)}.")
        raise ConfigError(f"{message}. See --help.")

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a label must not end a run on a terminal of few characters
    try:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)
        return 0
    except LCFinetuneError as error:
        print(f"lc-finetune: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lc-finetune: interrupted; a training run goes on with the same command and --resume.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="lc-finetune", description="Fine-tuned encoders as LangChain Runnables.", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_train(commands)
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
    train.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    from lc_finetune.train.config import TrainConfig

    given = {
        name: value for name, value in vars(arguments).items() if value is not None and name not in ("run", "config")
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
