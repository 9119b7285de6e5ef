"""The engine in processes that fork, and in interpreters that end while it works."""

import subprocess
import sys
from pathlib import Path

import pytest

from lc_finetune import Checkpoint
from lc_finetune.testing import tiny_checkpoint

LOAD = """
import os, sys, threading
from lc_finetune import TextClassifier
classifier = TextClassifier.from_checkpoint(sys.argv[1], device="cpu")
expected = classifier.invoke("Where is my card?").label
"""
# As multiprocessing ends its children. ONNX Runtime's own exit handler hangs in a forked child that ends by `exit()`,
# as soon as the parent has imported it.
FORK = """
child = os.fork()
if child == 0:
    os._exit(0 if classifier.invoke("Where is my card?").label == expected else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), classifier.invoke("Where is my card?").label == expected)
"""
POOL = """
import multiprocessing
def ask(text):
    return classifier.invoke(text).label
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(0, pool.map(ask, ["Where is my card?"] * 4) == [expected] * 4)
"""
IDLE = "print(0, True)"
PENDING = """
texts = ["card " * 2000] * 500
threading.Thread(target=lambda: classifier.batch(texts, return_exceptions=True), daemon=True).start()
classifier.batch(["card"])
print(0, True)
"""
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
predictor, texts, begun, gone = classifier._loaded(), ["where is my card"] * 1000, [], threading.Event()
forward = predictor.backend.forward
def interrupting(batch):
    if not begun:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    begun.append(batch)
    gone.wait(100)
    return forward(batch)
predictor.backend.forward = interrupting
try:
    {ask}
except KeyboardInterrupt:
    gone.set()
    predictor.predict(["no cash"])
    print(0, len(begun) == 2)
"""


@pytest.mark.parametrize("onnx", [False, True], ids=["torch", "onnx"])
@pytest.mark.parametrize("then", [FORK, pytest.param(POOL, marks=pytest.mark.slow)], ids=["fork", "pool"])
def test_a_forked_child_can_predict(then: str, onnx: bool, tmp_path: Path) -> None:
    """After its parent has loaded and predicted; so can the parent afterwards."""
    assert run(LOAD + then, tiny_checkpoint(tmp_path / "c", onnx=onnx)) == "0 True"


@pytest.mark.parametrize("then", [IDLE, PENDING], ids=["idle", "pending"])
def test_an_interpreter_ends_cleanly(then: str, tiny_classifier: Checkpoint) -> None:
    """With the worker waiting or at work: status 0, nothing on stderr, no hanging."""
    assert run(LOAD + then, tiny_classifier) == "0 True"


@pytest.mark.parametrize("ask", ["predictor.predict(texts)", "list(predictor.predict_stream([texts]))"])
def test_an_interrupted_caller_leaves_the_queue(ask: str, tiny_classifier: Checkpoint) -> None:
    """Ctrl-C ends the waiting, and what was waited for is not computed."""
    assert run(LOAD + INTERRUPTED.replace("{ask}", ask), tiny_classifier) == "0 True"


def run(code: str, checkpoint: Checkpoint) -> str:
    """Run a script on a checkpoint; its last line."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(checkpoint.path)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]
