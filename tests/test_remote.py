"""A checkpoint at a URL is whole or refused, fetched once, checked as every folder is; texts go up only when asked."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lc_finetune import Checkpoint, CheckpointError, ConfigError, MissingDependencyError, TextClassifier
from lc_finetune.checkpoint import FETCHED, MANIFEST
from lc_finetune.cli import main
from lc_finetune.inference.calibrate import record
from lc_finetune.inference.export import export
from lc_finetune.remote import MARKER, is_url, refuse_existing_url, upload
from lc_finetune.testing import tiny_checkpoint


class Watched(MemoryFileSystem):
    """Files in memory; what is done to them is written down, and what is told to fail fails."""

    protocol = "watched"
    cachable = False
    done: ClassVar[list[tuple[str, str]]] = []
    failures: ClassVar[dict[str, list[Exception]]] = {}
    strays: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).replace("watched://", "memory://"))

    def _do(self, what: str, path: str) -> None:
        self.done.append((what, path.rpartition("/")[2]))
        if self.failures.get(what):
            raise self.failures[what].pop()

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._do("list", path)
        strays = [{"name": f"{path}/{name}", "type": "file", "size": 1} for name in self.strays]
        return [*super().ls(path, detail=detail, **options), *strays]

    def get_file(self, rpath: str, lpath: str, **options: Any) -> Any:
        self._do("get", rpath)
        return super().get_file(rpath, lpath, **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> Any:
        self._do("put", rpath)
        return super().put_file(lpath, rpath, **options)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> Any:
        self._do("write", path)
        return super().pipe_file(path, value, **options)

    def rm(self, path: str, recursive: bool = False, maxdepth: Any = None) -> Any:
        self._do("remove", path)
        return super().rm(path, recursive=recursive, maxdepth=maxdepth)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The cache of this test; the stores are empty before and after."""
    fsspec.register_implementation("watched", Watched, clobber=True)
    monkeypatch.setenv("LC_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("lc_finetune.remote.RETRY_AFTER", (0.0, 0.0))
    for forget in (MemoryFileSystem.store, Watched.done, Watched.failures, Watched.strays):
        forget.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield tmp_path / "cache"
    MemoryFileSystem.store.clear()


@pytest.fixture
def url(tiny_classifier: Checkpoint) -> str:
    """Where the tiny classifier is."""
    send(tiny_classifier.path, "watched://models/support")
    Watched.done.clear()
    return "watched://models/support"


def send(folder: Path, url: str, *, private: bool = False) -> None:
    upload(folder, url, last=MANIFEST, replaced=FETCHED, private=private)


def stored() -> set[str]:
    """The names of all files in memory."""
    return {name.removeprefix("/models/support/") for name in MemoryFileSystem.store}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://bucket/model", True),
        ("memory://model", True),
        ("file:///srv/model", True),
        ("hf://organisation/model", True),
        ("organisation/model", False),
        ("runs/support", False),
        ("C:\\models\\support", False),
        ("C:/models/support", False),
        ("c://models", False),
        ("nonsense://bucket/model", False),
        ("simplecache::s3://bucket/model", False),
        (Path("runs/support"), False),
    ],
)
def test_what_is_a_url(source: str | Path, expected: bool) -> None:
    """Only what begins with a scheme that fsspec knows."""
    assert is_url(source) == expected


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_what_was_uploaded_answers_as_the_local_folder(
    scheme: str, tiny_classifier: Checkpoint, tmp_path: Path
) -> None:
    """With the same digest, so that the weights are shared."""
    url = f"{scheme}://{tmp_path}/store/support"
    send(tiny_classifier.path, url)
    near, far = (TextClassifier.from_checkpoint(at, device="cpu") for at in (tiny_classifier.path, url + "/"))

    assert Checkpoint.load(url).digest == tiny_classifier.digest
    assert near.invoke("Where is my card?") == far.invoke("Where is my card?")


def test_a_second_load_fetches_nothing(url: str, cache: Path) -> None:
    """It asks for the listing and the manifest alone; the copy is its owner's to read."""
    first = Checkpoint.load(url)
    fetched = [name for what, name in Watched.done if what == "get"]
    Watched.done.clear()
    second = Checkpoint.load(url)

    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(fetched)
    assert [what for what, _ in Watched.done] == ["list"]
    assert first.path == second.path
    assert [path.stat().st_mode & 0o777 for path in (cache, first.path.parent)] == [0o700] * 2


def test_a_folder_trained_anew_is_fetched_anew(url: str, tmp_path: Path) -> None:
    """The key is the manifest's content; the copy that others serve from stays."""
    old = Checkpoint.load(url)
    new = tiny_checkpoint(tmp_path / "new", seed=1)
    send(new.path, url)

    assert Checkpoint.load(url).digest == new.digest != old.digest
    assert Checkpoint.load(old.path).digest == old.digest


def test_an_export_made_anew_is_fetched_anew(url: str) -> None:
    """Its manifest is part of the key."""
    first = Checkpoint.load(url)
    MemoryFileSystem().pipe_file("/models/support/onnx/export.json", b"{}")

    assert Checkpoint.load(url).path != first.path


def test_the_marker_comes_first_and_goes_last(tiny_classifier: Checkpoint) -> None:
    """The manifest is the last file to arrive."""
    send(tiny_classifier.path, "watched://models/support")
    changes = [done for done in Watched.done if done[0] != "list"]

    assert changes[0] == ("write", MARKER)
    assert changes[-2:] == [("put", MANIFEST), ("remove", MARKER)]
    assert MARKER not in stored()


def test_a_failure_that_passes_is_tried_again(tiny_classifier: Checkpoint) -> None:
    """Twice for each file."""
    Watched.failures["put"] = [ConnectionError(), TimeoutError()]
    send(tiny_classifier.path, "watched://models/support")

    assert Checkpoint.load("watched://models/support").digest == tiny_classifier.digest


@pytest.mark.parametrize("failures", [[ConnectionError("secret")] * 3, [PermissionError("secret")]])
def test_a_failed_upload_is_never_loaded(failures: list[Exception], tiny_classifier: Checkpoint) -> None:
    """The marker stays; one clear error without the store's words; the next upload mends it."""
    Watched.failures["put"] = failures
    with pytest.raises(ConfigError, match="Expected to reach watched://models/support") as failed:
        send(tiny_classifier.path, "watched://models/support")
    with pytest.raises(CheckpointError, match="whose upload has not ended"):
        Checkpoint.load("watched://models/support")
    assert "secret" not in str(failed.value)

    send(tiny_classifier.path, "watched://models/support")
    assert Checkpoint.load("watched://models/support").digest == tiny_classifier.digest


def test_a_copy_of_an_unfinished_upload_is_refused(tmp_path: Path) -> None:
    """However it came to the disk."""
    folder = tiny_checkpoint(tmp_path / "copied").path
    (folder / MARKER).touch()

    with pytest.raises(CheckpointError, match="its upload has not ended"):
        Checkpoint.load(folder)


@pytest.mark.parametrize(("private", "sent"), [(False, set()), (True, {"private/mistakes.jsonl"})])
def test_texts_are_uploaded_only_when_asked(private: bool, sent: set[str], tmp_path: Path) -> None:
    """They are in `private/`, and are never fetched."""
    folder = tiny_checkpoint(tmp_path / "out").path
    (folder / "private").mkdir()
    (folder / "private" / "mistakes.jsonl").write_text("secret")
    send(folder, "watched://models/support", private=private)

    assert sent == {name for name in stored() if name.startswith("private")}
    assert not (Checkpoint.load("watched://models/support").path / "private").exists()


def test_what_is_replaced_leaves_nothing_behind_but_what_is_not_ours(url: str, tmp_path: Path) -> None:
    """An export of other weights, or texts of an earlier run, would be wrong beside the new ones."""
    for name in ("onnx/model.onnx", "private/replay.jsonl", "vocab.txt", "notes.md"):
        MemoryFileSystem().pipe_file(f"/models/support/{name}", b"old")
    new = tiny_checkpoint(tmp_path / "new", seed=1)
    send(new.path, url)

    assert stored() == {"notes.md", *(path.name for path in new.path.iterdir())}


def test_what_is_there_is_refused(url: str) -> None:
    """Unless it may be replaced; an unfinished upload may be gone on with."""
    refuse_existing_url("watched://models/other", overwrite=False, resume=False)
    refuse_existing_url(url, overwrite=True, resume=False)
    with pytest.raises(ConfigError, match=r"with content.*--overwrite"):
        refuse_existing_url(url, overwrite=False, resume=True)

    MemoryFileSystem().pipe_file(f"/models/support/{MARKER}", b"")
    refuse_existing_url(url, overwrite=False, resume=True)
    with pytest.raises(ConfigError, match=r"has not ended.*--resume"):
        refuse_existing_url(url, overwrite=False, resume=False)


def test_a_file_that_was_altered_there_is_refused_until_it_is_mended(url: str, cache: Path) -> None:
    """And leaves no copy behind."""
    weights = MemoryFileSystem().cat_file("/models/support/model.safetensors")
    MemoryFileSystem().pipe_file("/models/support/model.safetensors", weights[:-1])
    with pytest.raises(CheckpointError, match=r"^watched://models/support/model\.safetensors: expected the SHA-256"):
        Checkpoint.load(url)
    assert not [path for path in cache.rglob("*") if path.is_file()]

    MemoryFileSystem().pipe_file("/models/support/model.safetensors", weights)
    assert Checkpoint.load(url).labels.names == ("card", "cash", "other")


def test_a_damaged_copy_is_named(url: str) -> None:
    """It may hold what is nowhere else, so it is not deleted unasked."""
    copy = Checkpoint.load(url).path
    (copy / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match="local copy of watched://models/support: delete it"):
        Checkpoint.load(url)
    assert copy.is_dir()


@pytest.mark.parametrize(
    "stray", ["..", "../evil.json", "onnx/../../evil.json", "a\\..\\evil", "model-/../x.safetensors"]
)
def test_a_listing_that_leads_out_of_the_folder_is_refused(stray: str, url: str, tmp_path: Path, cache: Path) -> None:
    """Nothing is taken from such a place."""
    Watched.strays.append(stray)
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        Checkpoint.load(url)

    assert not cache.exists()
    assert not [what for what, _ in Watched.done if what == "get"]


def test_only_what_is_ever_read_is_fetched(url: str) -> None:
    """Code, pickles and whatever else lies there stay there."""
    for name in ("own.py", "pytorch_model.bin", "onnx/deep/model.onnx", ".env"):
        MemoryFileSystem().pipe_file(f"/models/support/{name}", b"x")
    copy = Checkpoint.load(url).path

    assert not [path for path in copy.rglob("*") if path.suffix in (".py", ".bin", ".onnx") or path.name == ".env"]


def test_a_plain_folder_loads_and_is_fetched_once(tiny_classifier: Checkpoint, tmp_path: Path) -> None:
    """Without a manifest the store's own times and sizes tell whether it changed."""
    plain = Path(shutil.copytree(tiny_classifier.path, tmp_path / "plain"))
    (plain / MANIFEST).unlink()
    send(plain, "watched://models/support")
    first = Checkpoint.load("watched://models/support")
    Watched.done.clear()

    assert (first.manifest, first.labels) == (None, tiny_classifier.labels)
    assert Checkpoint.load("watched://models/support").path == first.path
    assert not [what for what, _ in Watched.done if what == "get"]


def test_a_store_without_its_package() -> None:
    """Names the command that installs it."""
    fsspec.register_implementation("lost", "no_such_package.Files", errtxt="Install it", clobber=True)

    for asking in (Checkpoint.load, lambda url: refuse_existing_url(url, overwrite=False, resume=False)):
        with pytest.raises(MissingDependencyError, match=r"lost:// URLs.*pip install no_such_package"):
            asking("lost://bucket/model")


def test_a_store_that_refuses() -> None:
    """One error of the right kind, with the URL and what to check, and without the store's own words."""
    for kind, asking in (
        (CheckpointError, Checkpoint.load),
        (ConfigError, lambda url: refuse_existing_url(url, overwrite=False, resume=False)),
    ):
        Watched.failures["list"] = [RuntimeError("no credentials, only secret")]
        with pytest.raises(kind, match=r"Expected to reach watched://bucket/model.*credentials") as refused:
            asking("watched://bucket/model")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("place", ["me:secret@host/model", "host/model?token=secret"])
def test_a_url_with_a_secret_is_refused_and_not_repeated(place: str) -> None:
    """It would end in records and logs."""
    with pytest.raises(CheckpointError, match="without a password") as refused:
        Checkpoint.load(f"ftp://{place}")

    assert "secret" not in str(refused.value)


def test_nothing_there(url: str) -> None:
    """A file in a folder's place is no folder."""
    with pytest.raises(CheckpointError, match="found nothing at watched://models/none"):
        Checkpoint.load("watched://models/none")
    with pytest.raises(CheckpointError, match="found a file at"):
        Checkpoint.load(f"{url}/config.json")
    with pytest.raises(CheckpointError, match="Expected no revision for the URL"):
        Checkpoint.load(url, revision="main")


def test_a_cache_that_cannot_be_made(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names the variable that moves it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("LC_FINETUNE_CACHE", str(tmp_path / "file" / "cache"))

    with pytest.raises(ConfigError, match="LC_FINETUNE_CACHE"):
        Checkpoint.load(url)


def test_a_file_is_answered_by_a_checkpoint_at_a_url(url: str, tmp_path: Path) -> None:
    """On the command line too."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "Where is my card?"}))
    given = ["predict", url, "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]

    assert main([*given, "--device", "cpu", "--quiet"]) == 0
    assert json.loads((tmp_path / "out.jsonl").read_text())["label"] in ("card", "cash", "other")


@pytest.mark.parametrize("command", [["calibrate", "rows.csv"], ["export", "--format", "onnx"]])
def test_what_writes_into_the_folder_wants_a_local_one(
    command: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change of the cached copy would be lost."""
    name, *more = command

    assert main([name, url, *more]) == 2
    assert f"Expected a local checkpoint folder, since {name} writes into it" in capsys.readouterr().err


def test_the_cached_copy_is_never_written_into(url: str) -> None:
    """Nor through a checkpoint that was loaded from the URL: it stays what the URL has."""
    checkpoint = Checkpoint.load(url)
    before = (checkpoint.path / MANIFEST).read_bytes()
    for write in (lambda: record(checkpoint, []), lambda: export(checkpoint)):
        with pytest.raises(ConfigError, match="found the cached copy of a URL"):
            write()

    assert (checkpoint.path / MANIFEST).read_bytes() == before


def test_an_export_from_python_wants_a_local_folder_too(url: str) -> None:
    """Said before anything is fetched."""
    with pytest.raises(ConfigError, match="Expected a local checkpoint folder"):
        export(url)
    assert not Watched.done
