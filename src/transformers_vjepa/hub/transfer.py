"""
To the Hub and back: what of a folder is uploaded, in one commit; what went wrong, in one line; checkpoints to go on
from.

What is uploaded is listed, not what is left out: so no features, logs, lists of clips or arguments, which name folders
of this machine, go along by mistake.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    snapshot_download,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import PROCESSOR_NAME

from ..safety.sanitizing import log_line
from .model_card import CARD_NAME, card_of_folder
from .remote_code import AUTO_MAPS, code_of, settings_with_code

#: Folder of a repository with the checkpoint that a run can go on from.
LAST_CHECKPOINT = "last-checkpoint"
_WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json")
# Relative links of a card to pictures.
_IMAGE_LINK = re.compile(r"!\[[^\]]*\]\(([^):#?]+\.(?:png|jpe?g|gif|webp))\)", flags=re.IGNORECASE)
#: What is uploaded, by its name in the repository: a file, or contents.
Uploads = dict[str, Path | bytes]


class HubError(OSError):
    """The Hub, or the way to it, refuses; the message says what to do, in one line and without tokens."""


# What goes wrong


def _http_error(error: BaseException) -> BaseException:
    """The HTTP error that another one comes from; itself, where there is none."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, (HTTPError, LocalTokenNotFoundError)):
            return found
        found = found.__cause__
    return error


def explain(error: BaseException, repo_id: str) -> str:
    """One line that says what an error of `huggingface_hub` means for a repository, and the remedy."""
    cause = _http_error(error)
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) and cause.response is not None else None
    is_gated = isinstance(cause, GatedRepoError)
    is_hidden = isinstance(cause, RepositoryNotFoundError)
    sent = cause.response.request.headers if status is not None else {"authorization": ""}
    if isinstance(cause, LocalTokenNotFoundError) or (status == 401 and "authorization" not in sent and not is_hidden):
        return f"no token for {repo_id}: log in with hf auth login, or set HF_TOKEN"
    if is_gated:
        return f"{repo_id} is gated: ask for access on its page, and log in with hf auth login, or set HF_TOKEN"
    if is_hidden:
        return (
            f"there is no {repo_id} here or on the Hub, or it is private and the token does not open it: check the "
            "name, log in with hf auth login, or set HF_TOKEN"
        )
    if status == 401:
        return "the Hub does not accept the token: log in anew with hf auth login, or set HF_TOKEN to a valid one"
    if status == 403:
        return f"the token may not do this with {repo_id}: use one with write access, or another name"
    if status == 400:
        said = " ".join(str(cause.server_message or cause).split())
        return log_line(f"the Hub refuses what is sent to {repo_id}: {said}")
    if status == 412:
        return f"somebody else has changed {repo_id} in the meantime: try again"
    reason = next(iter(str(cause).strip().splitlines()), "") or type(cause).__name__
    if isinstance(cause, HTTPError):
        return log_line(f"the connection to the Hub failed ({type(cause).__name__}: {reason}): try again")
    return log_line(" ".join(str(cause).split()) or reason)


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """
    Raises:
        HubError: for what `huggingface_hub` raises inside.
    """
    try:
        yield
    except HubError:
        raise
    # Uploads of large files fail with a RuntimeError around what happened, wrong metadata with a ValueError.
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(explain(error, repo_id)) from error


# Up


def model_files(folder: str | Path, *, card: ModelCard | str | None, images_in: str | Path | None = None) -> Uploads:
    """
    What is uploaded of a folder with a model: weights, settings, the card and its pictures, and the code for
    `trust_remote_code`. Small files are read at once, so that they may change while the upload runs.

    Args:
        folder: with the model.
        card: the card.
        images_in: folder to which links of the card are relative, if another one.
    """
    folder = Path(folder)
    uploads: Uploads = {file.name: file for pattern in _WEIGHTS for file in sorted(folder.glob(pattern))}
    for name in (*AUTO_MAPS, PROCESSOR_NAME):
        if (folder / name).is_file():
            settings = json.loads((folder / name).read_text(encoding="utf-8"))
            settings = settings_with_code(name, settings) if name in AUTO_MAPS else settings
            uploads[name] = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    uploads |= {name: file.read_bytes() for name, file in code_of(set(uploads)).items()}
    if card is not None:
        uploads[CARD_NAME] = str(card).encode()
        uploads |= _linked_images(str(card), Path(images_in or folder))
    return uploads


def _linked_images(card: str, folder: Path) -> Uploads:
    """Pictures in a folder that a card shows, by their relative path."""
    root, found = folder.resolve(), {}
    for link in _IMAGE_LINK.findall(card):
        file = (root / link).resolve()
        if file.is_relative_to(root) and file.is_file():
            found[file.relative_to(root).as_posix()] = file.read_bytes()
    return found


def checkpoint_files(checkpoint: str | Path, name: str = LAST_CHECKPOINT) -> Uploads:
    """What is uploaded of a checkpoint, in the folder `name`: all but the pickled arguments, which nobody reads."""
    checkpoint = Path(checkpoint)
    return {
        f"{name}/{file.relative_to(checkpoint).as_posix()}": file
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != TRAINING_ARGS_NAME
    }


def size_of(content: Path | bytes) -> int:
    """Bytes."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def upload(
    uploads: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    replaces: str | None = None,
) -> CommitInfo:
    """
    Uploads files in one commit: a reader of the repository sees all of them or none. Files that the repository has
    already are not sent, and where all of them are there, there is no commit.

    Args:
        uploads: see `model_files` and `checkpoint_files`.
        repo_id: `user/name`, or a name; made if it does not exist.
        message: of the commit.
        token: by default that of `hf auth login`, or `HF_TOKEN`.
        private: for a repository that is made.
        revision: branch; made if it does not exist.
        replaces: folder of the repository whose other files are deleted.

    Raises:
        HubError: in one line, with the remedy.
    """
    api = HfApi(token=token, library_name="transformers_vjepa")
    with hub_errors(repo_id):
        if CARD_NAME in uploads:  # before there is a repository for what cannot go into it
            ModelCard(uploads[CARD_NAME].decode(), ignore_metadata_errors=True).validate()
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, content) for name, content in uploads.items()
        ]
        if replaces is not None:
            there = api.list_repo_files(repo_id, revision=revision)
            stale = [name for name in there if name.startswith(f"{replaces}/") and name not in uploads]
            operations += [CommitOperationDelete(name) for name in stale]
        return api.create_commit(repo_id, operations, commit_message=message, revision=revision)


def publish_folder(
    folder: str | Path,
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
) -> CommitInfo:
    """
    Uploads a finished folder; see [`upload`] and [`model_files`].

    Raises:
        HubError: in one line, with the remedy.
        ValueError: a licence that the folder's own forbids.
    """
    card = card_of_folder(folder, model_id=repo_id, license=license)
    return upload(
        model_files(folder, card=card), repo_id, message=message, token=token, private=private, revision=revision
    )


# Down


def download_checkpoint(name: str, *, token: str | None = None) -> Path:
    """
    The checkpoint of a repository that a run can go on from, downloaded: `last-checkpoint`, or else the one with most
    steps.

    Args:
        name: `user/name`, or `user/name@revision`.
        token: for private repositories.

    Raises:
        HubError: there is none, or it cannot be had.
    """
    repo_id, _, revision = name.partition("@")
    with hub_errors(repo_id):
        wanted = LAST_CHECKPOINT
        if not constants.is_offline_mode():
            files = HfApi(token=token).list_repo_files(repo_id, revision=revision or None)
            wanted = _newest({file.partition("/")[0] for file in files if "/" in file}, name)
        snapshot = snapshot_download(
            repo_id,
            revision=revision or None,
            token=token,
            allow_patterns=[f"{wanted}/*"],
        )
    return Path(os.path.join(snapshot, wanted))


def _newest(folders: set[str], name: str) -> str:
    steps = {
        folder: int(folder.rpartition("-")[2])
        for folder in folders
        if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", folder)
    }
    if LAST_CHECKPOINT in folders:
        return LAST_CHECKPOINT
    if not steps:
        raise HubError(
            f"{name} on the Hub holds no checkpoint to go on from: push it with --hub_strategy checkpoint, or start a "
            f"new run from its weights with --init_from {name}"
        )
    return max(steps, key=steps.__getitem__)


__all__ = [
    "LAST_CHECKPOINT",
    "HubError",
    "checkpoint_files",
    "download_checkpoint",
    "explain",
    "hub_errors",
    "model_files",
    "publish_folder",
    "size_of",
    "upload",
]
