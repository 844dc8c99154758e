"""
Upload folders to the Hub in single commits, download checkpoints to resume from, and explain errors in one line.

The uploaded files are chosen by name. So features, logs, lists of clips and arguments, which name folders of this
machine, cannot be uploaded by mistake.
"""

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
    errors,
    snapshot_download,
)
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import PROCESSOR_NAME

from ..conversion.ijepa import is_stock_folder
from ..safety.sanitizing import log_line
from .model_card import CARD_NAME, card_of_folder
from .remote_code import AUTO_MAPS, code_files, settings_with_code

#: Folder of a repository with the checkpoint to resume from.
LAST_CHECKPOINT = "last-checkpoint"
_WEIGHTS = ("model*.safetensors", "model*.safetensors.index.json")
# Relative links of a card to images.
_IMAGE_LINK = re.compile(r"!\[[^\]]*\]\(([^):#?]+\.(?:png|jpe?g|gif|webp))\)", flags=re.IGNORECASE)
#: Files to upload, by their path in the repository: a local file, or its contents.
Uploads = dict[str, Path | bytes]
_BY_STATUS = {
    401: "the Hub does not accept the token: log in again with hf auth login, or set HF_TOKEN to a valid token",
    403: "the token does not allow this with {repo_id}: use a token with write access, or another name",
    412: "{repo_id} has changed on the Hub in the meantime: try again",
}


class HubError(OSError):
    """The Hub refused, or the connection to the Hub failed. The message has one line, a remedy and no tokens."""


# Errors


def _http_error(error: BaseException) -> BaseException:
    """The HTTP error among the causes of an error; without one, the error itself."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, (errors.HTTPError, errors.LocalTokenNotFoundError)):
        found = found.__cause__
    return error if found is None else found


def explain(error: BaseException, repo_id: str) -> str:
    """One line that says what an error of `huggingface_hub` means for a repository, with the remedy."""
    cause = _http_error(error)
    status = cause.response.status_code if isinstance(cause, errors.HfHubHTTPError) else None
    if isinstance(cause, errors.GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, and log in with hf auth login, or set HF_TOKEN"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return (
            f"there is no {repo_id} on this machine or on the Hub, or it is private and the token gives no access: "
            "check the name, log in with hf auth login, or set HF_TOKEN"
        )
    sent_no_token = status == 401 and "authorization" not in cause.response.request.headers
    if sent_no_token or isinstance(cause, errors.LocalTokenNotFoundError):
        return f"no token for {repo_id}: log in with hf auth login, or set HF_TOKEN"
    if status in _BY_STATUS:
        return _BY_STATUS[status].format(repo_id=repo_id)
    if status == 400:
        message = " ".join(str(cause.server_message or cause).split())
        return log_line(f"the Hub refuses the files for {repo_id}: {message}")
    if isinstance(cause, errors.HTTPError):
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        return log_line(f"the connection to the Hub failed ({type(cause).__name__}: {reason}): try again")
    return log_line(" ".join(str(cause).split()) or type(cause).__name__)


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Raises a [`HubError`] in place of an error of `huggingface_hub` inside the block."""
    try:
        yield
    except HubError:
        raise
    # A failed upload of a large file is wrapped in a RuntimeError; wrong metadata raises a ValueError.
    except (errors.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise HubError(explain(error, repo_id)) from error


# Upload


def model_files(folder: str | Path, *, card: ModelCard | str | None, images_in: str | Path | None = None) -> Uploads:
    """
    The files to upload of a folder with a model: weights, settings, the card and its images, and the code for
    `trust_remote_code`, which a stock I-JEPA model does not need. Links of the card are relative to the folder
    `images_in`, by default `folder`. Small files are read now, so that they may change while the upload runs.
    """
    folder = Path(folder)
    is_stock = is_stock_folder(folder)
    uploads: Uploads = {file.name: file for pattern in _WEIGHTS for file in sorted(folder.glob(pattern))}
    settings = [file for name in AUTO_MAPS if (file := folder / name).is_file()]
    uploads |= {file.name: file.read_bytes() if is_stock else settings_with_code(file).encode() for file in settings}
    if (folder / PROCESSOR_NAME).is_file():
        uploads[PROCESSOR_NAME] = (folder / PROCESSOR_NAME).read_bytes()
    uploads |= {file.name: file.read_bytes() for file in code_files() if settings and not is_stock}
    if card is not None:
        uploads[CARD_NAME] = str(card).encode()
        root = Path(images_in or folder).resolve()
        linked = [(root / link).resolve() for link in _IMAGE_LINK.findall(str(card))]
        images = [file for file in linked if file.is_relative_to(root) and file.is_file()]
        uploads |= {file.relative_to(root).as_posix(): file.read_bytes() for file in images}
    return uploads


def checkpoint_files(checkpoint: str | Path, name: str = LAST_CHECKPOINT) -> Uploads:
    """All files of a checkpoint, for the folder `name` of a repository, except the pickled training arguments."""
    checkpoint = Path(checkpoint)
    return {
        f"{name}/{file.relative_to(checkpoint).as_posix()}": file
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != TRAINING_ARGS_NAME
    }


def size_of(content: Path | bytes) -> int:
    """Size of a value of `Uploads` in bytes."""
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
    Uploads files in one commit, so a reader of the repository sees all of them or none. Unchanged files are not sent;
    if no file has changed, there is no commit.

    Args:
        uploads: files; see `model_files` and `checkpoint_files`.
        repo_id: `user/name`, or only a name. A missing repository is created.
        message: message of the commit.
        token: by default the token of `hf auth login`, or `HF_TOKEN`.
        private: whether a new repository is private.
        revision: branch. A missing branch is created.
        replaces: folder of the repository; its files that are not in `uploads` are deleted.

    Raises:
        HubError: in one line, with the remedy.
    """
    api = HfApi(token=token, library_name="transformers_vjepa")
    with hub_errors(repo_id):
        if CARD_NAME in uploads:  # a wrong card is refused before a repository is created
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
) -> CommitInfo:
    """Uploads the model of a folder with its card; see [`model_files`] and [`upload`], also for the errors."""
    uploads = model_files(folder, card=card_of_folder(folder, model_id=repo_id))
    return upload(uploads, repo_id, message=message, token=token, private=private, revision=revision)


# Download


def download_checkpoint(name: str, *, token: str | None = None) -> Path:
    """
    Downloads the checkpoint of a repository to resume from: `last-checkpoint`, or else the one with the most steps.

    Args:
        name: `user/name`, or `user/name@revision`.
        token: for private repositories.

    Raises:
        HubError: the repository holds no checkpoint, or cannot be downloaded.
    """
    repo_id, _, revision = name.partition("@")
    with hub_errors(repo_id):
        wanted = LAST_CHECKPOINT
        if not constants.is_offline_mode():
            files = HfApi(token=token).list_repo_files(repo_id, revision=revision or None)
            folders = {file.partition("/")[0] for file in files if "/" in file}
            if wanted not in folders:
                checkpoints = [item for item in folders if re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-\d+", item)]
                if not checkpoints:
                    raise HubError(
                        f"{name} on the Hub holds no checkpoint to resume from: push one with --hub_strategy "
                        f"checkpoint, or start a new run from its weights with --init_from {name}"
                    )
                wanted = max(checkpoints, key=lambda folder: int(folder.rpartition("-")[2]))
        snapshot = snapshot_download(repo_id, revision=revision or None, token=token, allow_patterns=[f"{wanted}/*"])
    return Path(snapshot, wanted)
