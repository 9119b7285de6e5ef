"""Folders at URLs, in any store that fsspec speaks to: fetched into a private cache, uploaded under a marker.

Object stores cannot rename a folder. So an upload puts a marker up first and takes it away last, and a folder with the
marker is refused: what is half there, or half replaced, is never loaded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from lc_finetune.errors import CheckpointError, ConfigError, LCFinetuneError, MissingDependencyError

MARKER = "lc_finetune.incomplete"
"""The file by which a folder says that its upload has not ended."""
PRIVATE = "private"
"""The subfolder of a checkpoint that may hold the user's texts."""
COPIES = "checkpoints"
"""The subfolder of the cache that holds what was fetched."""
RETRY_AFTER = (1.0, 5.0)
"""Seconds before a file is uploaded once more, and once again."""
_NEVER_RETRIED = (FileNotFoundError, PermissionError, NotImplementedError, ImportError)

_T = TypeVar("_T")


def is_url(source: str | os.PathLike[str]) -> bool:
    """Say whether this is a URL of a scheme that fsspec knows, rather than a path or a Hub id.

    Example:
        >>> [is_url(source) for source in ("s3://models/support", "C:/models/support", "organisation/model")]
        [True, False, False]
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", os.fspath(source))
    if scheme is None:
        return False
    from fsspec import available_protocols
    from fsspec.registry import registry

    return scheme[1] in {*available_protocols(), *registry}


def refuse_url(source: str | os.PathLike[str], doing: str) -> None:
    """Refuse a URL where a folder is written to.

    Raises:
        ConfigError: If `source` is a URL.
    """
    if is_url(source):
        raise ConfigError(
            f"Expected a local checkpoint folder, since {doing} writes into it, found the URL {safe(source)}. "
            "Copy the folder here first, and upload it again afterwards."
        )


def refuse_cached(folder: Path, doing: str) -> None:
    """Refuse the local copy of a folder at a URL where something is written: the URL's own would stay as it is.

    Raises:
        ConfigError: If `folder` is such a copy.
    """
    if folder.resolve().is_relative_to((_cache() / COPIES).resolve()):
        raise ConfigError(
            f"Expected a local checkpoint folder, since {doing} writes into it, found the cached copy of a URL. "
            "Copy the folder here first, and upload it again afterwards."
        )


def safe(url: str | os.PathLike[str]) -> str:
    """Write a URL for a message: without what may be a secret.

    Example:
        >>> safe("ftp://me:secret@host/models?token=secret")
        'ftp://host/models'
    """
    scheme, _, rest = os.fspath(url).partition("?")[0].partition("://")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    return f"{scheme}://{host if ':' in user else user + at + host}{slash}{path}"


def cache_folder(*names: str) -> Path:
    """Make a folder that only its owner reads, under `$LC_FINETUNE_CACHE` or else `~/.cache/lc_finetune`.

    Raises:
        ConfigError: If nothing can be written there.
    """
    folder = _cache()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            folder = folder / name
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"Expected to keep local copies in {folder}, could not make it ({error.strerror}). "
            "Name another folder in the environment variable LC_FINETUNE_CACHE."
        ) from error
    return folder


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LC_FINETUNE_CACHE") or Path(home) / "lc_finetune").expanduser().absolute()


def short_digest(text: str) -> str:
    """Give the first 16 digits of a SHA-256, as the name of a folder."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RemoteFolder:
    """A folder at a URL. Every failure is one clear error of the given kind."""

    url: str
    fs: Any
    root: str
    error: type[CheckpointError] | type[ConfigError]

    @classmethod
    def open(cls, url: str, *, error: type[CheckpointError] | type[ConfigError]) -> RemoteFolder:
        """Find the file system of a URL.

        Raises:
            MissingDependencyError: If its package is not installed.
            CheckpointError: Or `ConfigError`, as asked: if the URL holds a secret, or cannot be used.
        """
        from fsspec import url_to_fs

        place = url.partition("://")[2].partition("/")[0]
        if "?" in url or ":" in place.rpartition("@")[0]:
            raise error(
                f"Expected a URL without a password and without a query, found one at {safe(url)}. Give credentials in "
                "the environment, in fsspec's configuration, or as the store's own tools keep them."
            )
        with _one_error(url, error):
            fs, root = url_to_fs(url)
        return cls(url.rstrip("/"), fs, root.rstrip("/"), error)

    def listing(self, folder: str = "") -> dict[str, str]:
        """Give the kind (`"file"`, `"directory"`) of each name in the folder, or a subfolder; empty if none is there.

        Raises:
            CheckpointError: Or `ConfigError`, if the store cannot be asked, or answers with names outside the folder.
        """
        root = f"{self.root}/{folder}" if folder else self.root
        with _one_error(self.url, self.error):
            self.fs.invalidate_cache()
            try:
                entries = self.fs.ls(root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        found: dict[str, str] = {}
        for entry in entries:
            full = str(entry["name"]).rstrip("/")
            if full == root and (entry["type"] == "directory" or str(entry["name"]).endswith("/")):
                continue  # some stores keep an empty object for a folder
            name = full.removeprefix(f"{root}/")
            if name == full or name in ("", ".", "..") or any(bad in name for bad in "/\\\0"):
                if full == root:
                    raise self.error(f"Expected a folder, found a file at {safe(self.url)}.")
                raise self.error(
                    f"{safe(self.url)}: expected plain file names, found one that leads out of the folder. "
                    "Nothing was taken from there."
                )
            found[name] = str(entry["type"])
        return found

    def read(self, name: str) -> bytes:
        """Read a small file whole."""
        with _one_error(self.url, self.error):
            content: bytes = self.fs.cat_file(f"{self.root}/{name}")
        return content

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file of the folder to a local path."""
        with _one_error(self.url, self.error):
            self.fs.get_file(f"{self.root}/{name}", os.fspath(path))

    def state(self, name: str) -> str:
        """Identify a file's content as well as the store can without reading it: by its size and time, or its tag."""
        with _one_error(self.url, self.error):
            return str(self.fs.checksum(f"{self.root}/{name}"))

    def put(self, path: Path, name: str) -> None:
        """Copy a local file into the folder."""
        self._make_room(name)
        self.fs.put_file(os.fspath(path), f"{self.root}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Write a small file into the folder."""
        self._make_room(name)
        self.fs.pipe_file(f"{self.root}/{name}", content)

    def remove(self, name: str) -> None:
        """Delete a file or a subfolder."""
        self.fs.rm(f"{self.root}/{name}", recursive=True)

    def _make_room(self, name: str) -> None:
        if not self.fs.async_impl:  # object stores have no folders, and would make a bucket of a mistyped name
            self.fs.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)


def cached(url: str, load: Callable[[Path], _T], *, wanted: Sequence[str], keys: Sequence[str]) -> _T:
    """Load the folder at a URL from its local copy, which is fetched first if there is none of this very content.

    The copies are keyed by the URL and by the content of the manifests, so only those are read when nothing changed.

    Args:
        url: Where the folder is.
        load: Loads a local folder, and checks it.
        wanted: Names and patterns of what is fetched, such as `"config.json"` and `"onnx/*"`.
        keys: The manifests, such as `"lc_finetune.json"` and `"onnx/export.json"`.

    Raises:
        CheckpointError: If there is no whole folder, it cannot be fetched, or it fails the checks.
        MissingDependencyError: If the package of the store is not installed.
        ConfigError: If the cache cannot be written.
    """
    remote = RemoteFolder.open(url, error=CheckpointError)
    names = _wanted_names(remote, wanted)
    manifests = {name: remote.read(name) for name in keys if name in names}
    states = () if keys[0] in manifests else tuple(remote.state(name) for name in names)
    folder = cached_copy(url, manifests, states)
    fresh = not folder.is_dir()
    if fresh:
        _download(remote, names, manifests, folder)
    try:
        return load(folder)
    except CheckpointError as error:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            raise CheckpointError(str(error).replace(os.fspath(folder), safe(url))) from error
        raise CheckpointError(f"{error} It is the local copy of {safe(url)}: delete it to fetch it again.") from error


def cached_copy(url: str, manifests: dict[str, bytes], states: Sequence[str] = ()) -> Path:
    """Name the local copy of the folder at a URL that has these manifests; it need not be there."""
    content = hashlib.sha256()
    for name, written in sorted(manifests.items()):
        content.update(f"{name}={hashlib.sha256(written).hexdigest()}\n".encode())
    for state in states:
        content.update(f"{state}\n".encode())
    return cache_folder(COPIES, short_digest(url.rstrip("/"))) / content.hexdigest()


def _wanted_names(remote: RemoteFolder, wanted: Sequence[str]) -> list[str]:
    """List what is to be fetched.

    Raises:
        CheckpointError: If nothing is there, or its upload has not ended.
    """
    top = remote.listing()
    if not top:
        raise CheckpointError(f"Expected a checkpoint folder, found nothing at {safe(remote.url)}. Check the URL.")
    if MARKER in top:
        raise CheckpointError(
            f"{safe(remote.url)}: expected a whole checkpoint, found one whose upload has not ended ({MARKER} is "
            "there). Wait for it, or upload it again."
        )
    names = [name for name, kind in top.items() if kind == "file"]
    for folder in sorted({pattern.partition("/")[0] for pattern in wanted if "/" in pattern}):
        if top.get(folder) == "directory":
            names += [f"{folder}/{name}" for name, kind in remote.listing(folder).items() if kind == "file"]
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted))


def _download(remote: RemoteFolder, names: Sequence[str], manifests: dict[str, bytes], folder: Path) -> None:
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    try:
        for name in names:
            path = staging / name
            path.parent.mkdir(exist_ok=True)
            if name in manifests:  # the very bytes that name the copy
                path.write_bytes(manifests[name])
            else:
                remote.fetch(name, path)
        try:
            os.rename(staging, folder)
        except OSError:
            if not folder.is_dir():  # or another process fetched the same
                raise
    except OSError as error:
        raise CheckpointError(
            f"Expected room for a copy of {safe(remote.url)} in {folder.parent}, could not write it "
            f"({error.strerror or type(error).__name__}). Free some, or set LC_FINETUNE_CACHE."
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def refuse_existing_url(url: str, *, overwrite: bool, resume: bool) -> None:
    """Refuse a URL at which there is something, before any work.

    Args:
        url: Where a folder is to go.
        overwrite: Whether it may replace another.
        resume: Whether it may replace one whose upload has not ended.

    Raises:
        ConfigError: If there is content, or the store cannot be asked.
        MissingDependencyError: If the package of the store is not installed.
    """
    found = RemoteFolder.open(url, error=ConfigError).listing()
    if not found or overwrite or (MARKER in found and resume):
        return
    if MARKER in found:
        raise ConfigError(
            f"Expected a new or empty output folder, found {safe(url)} with an upload that has not ended. "
            "Go on with --resume, or pass --overwrite to start anew."
        )
    raise ConfigError(
        f"Expected a new or empty output folder, found {safe(url)} with content. "
        "Name another one, or pass --overwrite to replace it."
    )


def upload(folder: Path, url: str, *, last: str, replaced: Sequence[str], private: bool = False) -> None:
    """Upload a folder: the marker first, then every file, then the marker goes.

    A file that fails is tried again (`RETRY_AFTER`). After a failure the marker stays, so that the folder at the URL
    is not loaded; the local one is as it was.

    Args:
        folder: The local folder.
        url: Where it goes.
        last: The file that goes up last, the manifest.
        replaced: Names and patterns of an earlier folder's files, which are deleted; other files there stay.
        private: Whether `private/`, which may hold texts, goes too.

    Raises:
        ConfigError: If it fails.
        MissingDependencyError: If the package of the store is not installed.
    """
    remote = RemoteFolder.open(url, error=ConfigError)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [name for name in files if private or name.partition("/")[0] != PRIVATE]
    files.sort(key=lambda name: name == last)
    old = remote.listing()
    ours = {pattern.partition("/")[0] for pattern in replaced} | {PRIVATE}
    with _one_error(url, ConfigError):
        _patiently(lambda: remote.write(MARKER, b"The upload of this folder has not ended.\n"))
        for name in (name for name in old if any(fnmatchcase(name, pattern) for pattern in ours)):
            _patiently(lambda name=name: remote.remove(name))  # type: ignore[misc]
        for name in files:
            _patiently(lambda name=name: remote.put(folder / name, name))  # type: ignore[misc]
        _patiently(lambda: remote.remove(MARKER))


def _patiently(step: Callable[[], None]) -> None:
    for wait in RETRY_AFTER:
        try:
            return step()
        except _NEVER_RETRIED:
            raise
        except Exception:  # whatever the store's package raises
            time.sleep(wait)
    return step()


@contextmanager
def _one_error(url: str, kind: type[CheckpointError] | type[ConfigError]) -> Iterator[None]:
    """Make one clear error of whatever a file system raises; its own words may hold secrets, and are left out."""
    try:
        yield
    except LCFinetuneError:
        raise
    except ImportError as error:
        raise MissingDependencyError(_missing(url, error)) from error
    except Exception as error:  # the packages of the stores share no base class
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise kind(f"Expected room for a copy of {safe(url)}, found the disk full. Free some.") from error
        raise kind(
            f"Expected to reach {safe(url)}, could not ({type(error).__name__}). Check the URL, your network, and that "
            "your credentials are there and allow it."
        ) from error


def _missing(url: str, error: ImportError) -> str:
    from fsspec.registry import known_implementations

    scheme = url.partition("://")[0]
    package = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    remedy = f"Run `pip install {package}`." if package not in ("", "fsspec") else f"{error}."
    return f"Expected the package that reads {scheme}:// URLs, found none. {remedy}"
