"""Open the videos of a source: folders, index files, tars, Parquet and Hub data sets behind two small interfaces."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, IterableDataset, load_dataset

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, extension, is_media
from ..safety.sanitizing import without_secrets
from .corpus import NO_LABEL, IndexedCorpus
from .file_corpus import FileCorpus, folder_corpus, open_index, scan_folder
from .remote_reading import disable_datasets_retries, retried, storage_options
from .table_corpus import ParquetCorpus, SequentialCorpus
from .tar_corpus import TarCorpus

_BRACE_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?$")


def _open_folder(folder: str, *, video_column: str | None) -> IndexedCorpus:
    kind, paths = scan_folder(folder)
    if kind in (".tar", ".parquet"):
        return _open_files([os.path.join(folder, path) for path in paths], video_column=video_column)
    return folder_corpus(folder, paths)


def _open_files(files: Sequence[str], *, video_column: str | None) -> IndexedCorpus:
    extensions = {extension(file) for file in files}
    if extensions == {".tar"}:
        return TarCorpus(files)
    if extensions == {".parquet"}:
        return ParquetCorpus(files, video_column=video_column)
    if extensions <= {".csv", ".txt"} and len(files) == 1:
        return open_index(files[0])
    if extensions <= VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        return FileCorpus(files, labels=[NO_LABEL] * len(files))
    raise ValueError(
        f"{files[0]}: cannot read {', '.join(sorted(extensions))} as one data set; pass one .csv or .txt index, or "
        "only .tar files, only .parquet files, or only video and image files"
    )


def _open_remote(source: str, *, split: str, video_column: str | None) -> SequentialCorpus:
    builder = {".tar": "webdataset", ".parquet": "parquet"}.get(extension(source))
    shown = without_secrets(source)
    if builder is None:
        raise ValueError(f"{shown}: only .tar and .parquet URLs can be streamed; or pass a Hub data set id")
    files, options = {split: _expand_braces(source)}, storage_options(source)
    disable_datasets_retries()
    dataset = retried(
        lambda: load_dataset(builder, data_files=files, split=split, streaming=True, storage_options=options),
        name=shown,
    )
    return SequentialCorpus(dataset, name=source, video_column=video_column, local_files=False)


def _open_hub(source: str, *, split: str, video_column: str | None) -> SequentialCorpus:
    """Open a Hub data set. Raises `FileNotFoundError` if `source` looks like a local path, or cannot be reached."""
    looked = f"looked in {Path.cwd()}"
    if not _HUB_ID.match(source) or extension(source) in {".csv", ".txt", ".tar", ".parquet"} or is_media(source):
        place = "" if os.path.isabs(source) else f" ({looked})"
        raise FileNotFoundError(f"{source!r} is neither a file, a folder nor a Hub data set id{place}")
    if "/" in source and os.path.isdir(source.partition("/")[0]):  # a mistyped path, not a user of the Hub
        raise FileNotFoundError(f"{source!r} is not a file or folder here ({looked})")
    name, _, config = source.partition(":")
    try:
        dataset = load_dataset(name, config or None, split=split, streaming=True)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source!r} is not a file or folder here ({looked}), and cannot be reached as a Hub data set: {error}"
        ) from error
    return SequentialCorpus(dataset, name=source, video_column=video_column, local_files=False)


def _expand_braces(pattern: str) -> list[str]:
    """`shard-{08..10}.tar` -> shard-08.tar, shard-09.tar, shard-10.tar."""
    match = _BRACE_RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    head, tail = pattern[: match.start()], pattern[match.end() :]
    return [path for number in numbers for path in _expand_braces(head + number + tail)]


Corpus = IndexedCorpus | SequentialCorpus


def is_corpus(source: object) -> bool:
    """Whether `source` is an open corpus."""
    return isinstance(source, SequentialCorpus) or hasattr(source, "describe")


def open_corpus(
    source: str | os.PathLike | Dataset | IterableDataset | Corpus,
    *,
    split: str = "train",
    video_column: str | None = None,
) -> Corpus:
    """
    Open a corpus of any kind.

    Args:
        source: one of
            - a folder, searched at any depth for videos, images, `.tar` or `.parquet` files; the first-level
              folders of videos and images are the labels, in sorted order;
            - a `.csv` or `.txt` index in the published format: path (absolute, or relative to the index) and
              integer label per line; or path and class name, separated by a comma;
            - a `.tar`, `.parquet`, video or image file, or a pattern for several: `part-*.tar`,
              `part-{000..127}.tar`;
            - a URL of `.tar` or `.parquet` files (`https://`, `hf://`, ...);
            - a Hub data set id, `user/name` or `user/name:config`;
            - a `datasets.Dataset`, or a streaming `datasets.IterableDataset`;
            - an open corpus, which is returned unchanged.
        split: split of a Hub data set.
        video_column: column with the videos; by default the only possible one.

    Returns:
        An `IndexedCorpus` for local files, a `SequentialCorpus` for everything else.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source cannot be read, or is ambiguous.
    """
    if is_corpus(source):
        return source
    if isinstance(source, Dataset):
        source = source.to_iterable_dataset()
    if isinstance(source, IterableDataset):
        return SequentialCorpus(source, name="the data set", video_column=video_column)
    source = os.path.expanduser(os.fspath(source))
    if "://" in source:
        return _open_remote(source, split=split, video_column=video_column)
    if os.path.isdir(source):
        return _open_folder(source, video_column=video_column)
    if os.path.isfile(source):
        return _open_files([source], video_column=video_column)
    if any(character in source for character in "*?[{"):
        files = [file for pattern in _expand_braces(source) for file in sorted(glob.glob(pattern)) or [pattern]]
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise FileNotFoundError(f"no file matches {missing[0]!r} (from {source!r}); looked in {Path.cwd()}")
        return _open_files(files, video_column=video_column)
    return _open_hub(source, split=split, video_column=video_column)
