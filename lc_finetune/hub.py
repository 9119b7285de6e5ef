"""A checkpoint folder → a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lc_finetune.checkpoint import FETCHED, Checkpoint
from lc_finetune.errors import ConfigError
from lc_finetune.remote import PRIVATE

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def open_api() -> HfApi:
    """Talk to the Hub as its own tools do: with HF_TOKEN, or the token that `hf auth login` keeps."""
    from huggingface_hub import HfApi

    return HfApi(library_name="lc_finetune")


def check_access(repo: str) -> None:
    """Refuse a name that no repository can have, or a user whom the Hub does not know, before any work.

    Raises:
        ConfigError: Naming the remedy.
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = ""
    if repo.count("/") != 1:
        raise ConfigError("push_to_hub: expected ORG/NAME, letters, digits, '-', '_' and '.', found something else.")
    try:
        open_api().whoami()
    except Exception as error:  # hub, network and token errors share no base class
        raise ConfigError(
            f"push_to_hub: expected to reach the Hugging Face Hub, could not ({type(error).__name__}). Check your "
            "network, and set HF_TOKEN to a token that may write, or run `hf auth login`."
        ) from error


def push(checkpoint: Checkpoint, repo: str) -> str:
    """Upload a checkpoint with its card; `private/` is never pushed.

    A repository that is not there is made, and is private; one that is there stays as visible as it was. Files of an
    earlier checkpoint are replaced in the same commit, and other files stay.

    Args:
        checkpoint: What to upload.
        repo: ORG/NAME.

    Returns:
        The address of the repository.

    Raises:
        ConfigError: If it fails; the repository is as it was.
    """
    api = open_api()
    try:
        address = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=os.fspath(checkpoint.path), ignore_patterns=[f"{PRIVATE}/*"],
            delete_patterns=list(FETCHED), commit_message="Checkpoint of lc_finetune",
        )  # fmt: skip
    except Exception as error:  # hub, network and validation errors share no base class
        raise ConfigError(
            f"push_to_hub: expected to push to {repo}, could not ({type(error).__name__}). The checkpoint is whole in "
            f"{checkpoint.path}. Check that your token may write there, then push it with `hf upload {repo} "
            f"{checkpoint.path} . --exclude '{PRIVATE}/*'`."
        ) from error
    return str(address)
