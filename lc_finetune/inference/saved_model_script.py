"""TensorFlow's side of a SavedModel export: a script for the Python of another environment.

It is run by its path, so it imports nothing of this package; the package imports `read_arrays` and `write_arrays` from
it, so that both ends of the pipe speak alike.

    python saved_model_script.py convert MODEL.onnx FOLDER
    python saved_model_script.py serve FOLDER

`serve` writes an empty message to standard output once the model is loaded, then reads batches from standard input and
writes the outputs of each, until the input ends.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

OUTPUTS = ("logits", "features")
SIGNATURE = "serving_default"
NO_MODULE = 3
"""Exit status when the environment lacks a package."""

_SIZE = struct.Struct("<Q")


def write_arrays(stream: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays: the size of what follows in eight bytes, then an uncompressed `.npz`."""
    content = io.BytesIO()
    named: dict[str, Any] = dict(arrays)
    np.savez(content, **named)
    stream.write(_SIZE.pack(content.tell()) + content.getvalue())
    stream.flush()


def read_arrays(stream: IO[bytes]) -> dict[str, NDArray[Any]] | None:
    """Read what `write_arrays` wrote, never unpickling; None where the stream ends."""
    header = stream.read(_SIZE.size)
    if len(header) < _SIZE.size:
        return None
    content = stream.read(*_SIZE.unpack(header))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def main(arguments: Sequence[str]) -> int:
    """Run a command; returns its exit status."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # whatever the libraries print must not get among the answers
        try:
            if arguments[0] == "convert":
                _convert(*map(Path, arguments[1:]))
            else:
                _serve(Path(arguments[1]), answers)
        except ImportError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return NO_MODULE
    return 0


def _convert(source: Path, target: Path) -> None:
    import onnx
    import onnx2tf
    import tensorflow as tf
    from onnx2tf.utils import common_functions

    names = [tensor.name for tensor in onnx.load(os.fspath(source)).graph.input]
    common_functions.inverted_operation_enable_disable = _keep_layout  # operators are imported later and take it
    with TemporaryDirectory() as folder:
        model = onnx2tf.convert(
            input_onnx_file_path=os.fspath(shutil.copy(source, folder)),  # a copy, since the file is rewritten
            output_folder_path=folder,
            disable_model_save=True,
            keep_shape_absolutely_input_names=names,
            not_use_onnxsim=True,
            disable_strict_mode=True,
            non_verbose=True,
        )
    order = [tensor.name for tensor in model.inputs]

    def forward(**inputs: Any) -> dict[str, Any]:
        return dict(zip(OUTPUTS, model([inputs[name] for name in order]), strict=True))

    module = tf.Module()
    module.model = model
    module.forward = tf.function(forward).get_concrete_function(
        **{name: tf.TensorSpec((None, None), tf.int64, name=name) for name in names}
    )
    tf.saved_model.save(module, os.fspath(target), signatures={SIGNATURE: module.forward})


def _keep_layout(make_node: Callable[..., None]) -> Callable[..., None]:
    """Decorate a maker of operators: what it makes has its axes in ONNX's order.

    onnx2tf lays images out with the channels last. Whether it did so is not kept but guessed, after each operator, from
    the shapes in ONNX and in TensorFlow; where the number of rows and of pieces is left open TensorFlow knows less of a
    shape than ONNX, and attention was computed over the wrong axes. A text has no channels: nothing is laid out anew.
    """

    @wraps(make_node)
    def make(**arguments: Any) -> None:
        make_node(**arguments)
        for output in arguments["graph_node"].outputs:
            arguments["tf_layers_dict"][output.name]["before_op_output_shape_trans"] = False

    return make


def _serve(folder: Path, answers: IO[bytes]) -> None:
    import tensorflow as tf

    model = tf.saved_model.load(os.fspath(folder))
    forward = model.signatures[SIGNATURE]
    write_arrays(answers, {})
    while (batch := read_arrays(sys.stdin.buffer)) is not None:
        outputs = forward(**{name: tf.constant(array) for name, array in batch.items()})
        write_arrays(answers, {name: tensor.numpy() for name, tensor in outputs.items()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
