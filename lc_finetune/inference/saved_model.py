"""ONNX → TensorFlow SavedModel, in a Python of its own: onnx2tf needs older libraries than this package."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Self

from lc_finetune.errors import CheckpointError, MissingDependencyError
from lc_finetune.inference import saved_model_script as script
from lc_finetune.inference.backends import Batch, Outputs

ENVIRONMENT = "LC_FINETUNE_SAVED_MODEL_ENV"
"""The environment variable that names another folder than `.venv-saved-model` beside the package."""

_QUIET = {
    "CUDA_VISIBLE_DEVICES": "-1",  # parity is measured on the CPU
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def environment_python() -> Path:
    """Find the Python that has TensorFlow and onnx2tf.

    Raises:
        MissingDependencyError: If its environment is not there.
    """
    named = os.environ.get(ENVIRONMENT)
    folder = Path(named).expanduser().absolute() if named else Path(__file__).parents[2] / ".venv-saved-model"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.is_file() or not os.access(python, os.X_OK):
        raise MissingDependencyError(
            f"Expected an environment with TensorFlow and onnx2tf at {folder}, found none. Build it with "
            f"`make saved-model-env` in a clone of the project, or name its folder in {ENVIRONMENT}."
        )
    return python


def convert(python: Path, source: Path, target: Path) -> None:
    """Write an ONNX model as a SavedModel.

    Args:
        python: See `environment_python`.
        source: The fp32 model: `input_ids`, `attention_mask` and, if it has them, `token_type_ids` → `logits`,
            `features`.
        target: An empty folder.

    Raises:
        CheckpointError: If the model cannot be converted.
        MissingDependencyError: If the environment lacks a package.
    """
    with TemporaryFile() as notes:
        done = subprocess.run(
            _command(python, "convert", source, target), env=os.environ | _QUIET, stdin=subprocess.DEVNULL,
            stdout=notes, stderr=notes, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise _failure(python, "a model that onnx2tf can convert", done.returncode, notes)


class SavedModel:
    """A SavedModel in a process of its own, as long as its parity is measured: a context manager."""

    name = "saved-model"
    precision = "float32"

    def __init__(self, python: Path, folder: Path) -> None:
        """Start the process; it loads when the context is entered.

        Args:
            python: See `environment_python`.
            folder: The SavedModel.
        """
        self._python = python
        self._notes = TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._process = subprocess.Popen(
            _command(python, "serve", folder), env=os.environ | _QUIET, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=self._notes,
        )  # fmt: skip

    def __enter__(self) -> Self:
        """Wait until TensorFlow has loaded the model.

        Raises:
            CheckpointError: If it cannot.
            MissingDependencyError: If the environment lacks a package.
        """
        try:
            self._answer("load")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._notes.close()

    def forward(self, batch: Batch) -> Outputs:
        """Run the model once; see `Backend`.

        Raises:
            CheckpointError: If TensorFlow cannot run the model.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended: there is no answer
            script.write_arrays(self._process.stdin, batch.feed)
        answer = self._answer("run")
        return Outputs(answer["logits"], answer["features"])

    def _answer(self, verb: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = script.read_arrays(self._process.stdout)
        if answer is None:
            expected = f"a SavedModel that TensorFlow can {verb}"
            raise _failure(self._python, expected, self._process.wait(), self._notes)
        return answer


def _command(python: Path, command: str, *paths: Path) -> list[str]:
    # Isolated (-I): modules of the working folder or of PYTHONPATH are for another Python.
    return [os.fspath(python), "-I", script.__file__, command, *(os.fspath(path.absolute()) for path in paths)]


def _failure(python: Path, expected: str, status: int, notes: IO[Any]) -> Exception:
    """Make an error that ends in the last line of what the process wrote."""
    notes.seek(0)
    lines = notes.read().decode(errors="replace").split("\n")
    last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")
    if status == script.NO_MODULE:
        return MissingDependencyError(
            f"Expected TensorFlow and onnx2tf in the environment of {python}, found one incomplete ({last}). "
            "Build it again with `make saved-model-env`."
        )
    return CheckpointError(
        f"Expected {expected}, found one at which its Python ended with status {status} ({last}). Use another format."
    )
