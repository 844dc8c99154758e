"""Open the videos of a source: folders, index files, tars, Parquet and Hub data sets behind two small interfaces."""

import glob
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    IterableDataset,
    load_dataset_builder,
    load_from_disk,
)

from ..models.vjepa.media_files import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS, extension, is_media
from ..safety.sanitizing import without_secrets
from .corpus import NO_LABEL, IndexedCorpus
from .file_corpus import FileCorpus, folder_corpus, open_index, scan_folder
from .remote_reading import address_exists, check_address, disable_datasets_retries, retried, storage_options
from .table_corpus import DatasetCorpus, ParquetCorpus, SequentialCorpus
from .table_labels import check_class_names
from .tar_corpus import StreamedTarCorpus, TarCorpus

_BRACE_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# Files of a folder that `datasets.Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.
_SAVED = ({"state.json", "dataset_info.json"}, {"dataset_dict.json"})
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?$")


def _open_folder(folder: str, *, split: str, video_column: str | None, label_column: str | None) -> IndexedCorpus:
    if any(all(os.path.isfile(os.path.join(folder, name)) for name in names) for names in _SAVED):
        return _open_saved(folder, split=split, video_column=video_column, label_column=label_column)
    kind, paths = scan_folder(folder)
    if kind in (".tar", ".parquet"):
        return _open_files(
            [os.path.join(folder, path) for path in paths], video_column=video_column, label_column=label_column
        )
    return folder_corpus(folder, paths)


def _open_files(files: Sequence[str], *, video_column: str | None, label_column: str | None) -> IndexedCorpus:
    extensions = {extension(file) for file in files}
    if extensions == {".tar"}:
        return TarCorpus(files)
    if extensions == {".parquet"}:
        return ParquetCorpus(files, video_column=video_column, label_column=label_column)
    if extensions <= {".csv", ".txt"} and len(files) == 1:
        return open_index(files[0])
    if extensions <= VIDEO_EXTENSIONS | IMAGE_EXTENSIONS:
        return FileCorpus(files, labels=[NO_LABEL] * len(files))
    raise ValueError(
        f"{files[0]}: cannot read {', '.join(sorted(extensions))} as one data set; pass one .csv or .txt index, or "
        "only .tar files, only .parquet files, or only video and image files"
    )


def _open_remote(source: str, *, split: str, video_column: str | None, label_column: str | None) -> SequentialCorpus:
    kind, shown = extension(source), without_secrets(source)
    if kind not in (".tar", ".parquet"):
        raise ValueError(f"{shown}: only .tar and .parquet URLs can be streamed; or pass a Hub data set id")
    check_address(source)
    disable_datasets_retries()
    addresses = _addresses(source)
    if kind == ".tar":
        return _open_tars(addresses, name=source)

    def open_files() -> SequentialCorpus:
        files, options = {split: addresses}, storage_options(source)
        builder = load_dataset_builder("parquet", data_files=files, storage_options=options)
        return _open_builder(builder, split=split, name=source, video_column=video_column, label_column=label_column)

    return retried(open_files, name=shown)


def _open_tars(tars: Sequence[str], *, name: str) -> StreamedTarCorpus:
    """Tars at addresses. The first one is read up to its first clips, so that systematic faults are found now."""
    corpus = StreamedTarCorpus(tars, name=name)
    retried(corpus.check_start, name=corpus.name)
    return corpus


def _addresses(pattern: str) -> list[str]:
    """
    The addresses that a pattern stands for. `*`, `?` and `[` are patterns for those kinds of addresses that can list
    files, that is, not for HTTP.

    Raises:
        FileNotFoundError: an address that does not exist.
    """
    addresses = []
    for url in _expand_braces(pattern):
        system, path = fsspec.core.url_to_fs(url, **storage_options(url))
        if not url.startswith(("http://", "https://")) and glob.has_magic(path):
            addresses += [system.unstrip_protocol(found) for found in sorted(system.glob(path))]
        else:
            addresses.append(url)
    with ThreadPoolExecutor(16) as pool:
        exist = list(pool.map(address_exists, addresses))
    if missing := [url for url, exists in zip(addresses, exist, strict=True) if not exists] or not addresses:
        shown = without_secrets(missing[0] if addresses else pattern)
        raise FileNotFoundError(
            f"Unable to find {shown}: it does not exist, its server fails, or it needs permission (a signed address "
            "expires)"
        )
    return addresses


def _open_builder(
    builder: DatasetBuilder, *, split: str, name: str, video_column: str | None, label_column: str | None
) -> SequentialCorpus:
    """A data set of the Hub, or Parquet at addresses. Tars are read as all tars are."""
    kind, files = builder.info.builder_name, getattr(builder.config, "data_files", None) or {}
    if kind == "webdataset":
        if split not in files:
            raise ValueError(f"{name} has no split {split!r}: choose one of {', '.join(files)}")
        return _open_tars(list(files[split]), name=name)
    dataset = builder.as_streaming_dataset(split=split)
    corpus = SequentialCorpus(
        dataset, name=name, video_column=video_column, label_column=label_column, local_files=False
    )
    if kind == "parquet" and isinstance(dataset.features.get(corpus.label_column), ClassLabel):
        check_class_names(files[split], corpus.label_column)
    return corpus


def _open_hub(source: str, *, split: str, video_column: str | None, label_column: str | None) -> SequentialCorpus:
    """Open a Hub data set. Raises `FileNotFoundError` if `source` looks like a local path, or cannot be reached."""
    looked = f"looked in {Path.cwd()}"
    if not _HUB_ID.match(source) or extension(source) in {".csv", ".txt", ".tar", ".parquet"} or is_media(source):
        place = "" if os.path.isabs(source) else f" ({looked})"
        raise FileNotFoundError(f"{source!r} is neither a file, a folder nor a Hub data set id{place}")
    if "/" in source and os.path.isdir(source.partition("/")[0]):  # a mistyped path, not a user of the Hub
        raise FileNotFoundError(f"{source!r} is not a file or folder here ({looked})")
    name, _, config = source.partition(":")
    try:
        builder = load_dataset_builder(name, config or None)
        return _open_builder(builder, split=split, name=source, video_column=video_column, label_column=label_column)
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(
            f"{source!r} is not a file or folder here ({looked}), and cannot be reached as a Hub data set: {error}"
        ) from error


def _open_saved(folder: str, *, split: str, video_column: str | None, label_column: str | None) -> DatasetCorpus:
    """The folder of `save_to_disk`: Arrow files, which hold the bytes of images and videos."""
    dataset = load_from_disk(folder)
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise ValueError(f"{folder} has no split {split!r}: choose one of {', '.join(dataset)}")
        folder, dataset = os.path.join(folder, split), dataset[split]
    return DatasetCorpus(dataset, name=folder, video_column=video_column, label_column=label_column, folder=folder)


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
    label_column: str | None = None,
) -> Corpus:
    """
    Open a corpus of any kind.

    Args:
        source: one of
            - a folder, searched at any depth for videos, images, `.tar` or `.parquet` files; the first-level
              folders of videos and images are the labels, in sorted order;
            - a folder that `save_to_disk` of `datasets` wrote;
            - a `.csv` or `.txt` index in the published format: path (absolute, or relative to the index) and
              integer label per line; or path and class name, separated by a comma;
            - a `.tar`, `.parquet`, video or image file, or a pattern for several: `part-*.tar`,
              `part-{000..127}.tar`;
            - a URL of `.tar` or `.parquet` files (`https://`, `hf://`, ...);
            - a Hub data set id, `user/name` or `user/name:config`;
            - a `datasets.Dataset`, or a streaming `datasets.IterableDataset`;
            - an open corpus, which is returned unchanged.
        split: split of a Hub data set, or of a saved `datasets.DatasetDict`.
        video_column: column with the videos or images; by default the only possible one.
        label_column: column with the labels, of Parquet and Hub data sets; by default `label`, `labels` or `cls`.

    Returns:
        An `IndexedCorpus` for local files and a `datasets.Dataset`, a `SequentialCorpus` for everything else.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source cannot be read, or is ambiguous.
    """
    if is_corpus(source):
        return source
    if isinstance(source, Dataset):
        return DatasetCorpus(source, name="the data set", video_column=video_column, label_column=label_column)
    if isinstance(source, IterableDataset):
        return SequentialCorpus(source, name="the data set", video_column=video_column, label_column=label_column)
    source = os.path.expanduser(os.fspath(source))
    if "://" in source:
        return _open_remote(source, split=split, video_column=video_column, label_column=label_column)
    if os.path.isdir(source):
        return _open_folder(source, split=split, video_column=video_column, label_column=label_column)
    if os.path.isfile(source):
        return _open_files([source], video_column=video_column, label_column=label_column)
    if any(character in source for character in "*?[{"):
        files = [file for pattern in _expand_braces(source) for file in sorted(glob.glob(pattern)) or [pattern]]
        if missing := [file for file in files if not os.path.isfile(file)]:
            raise FileNotFoundError(f"no file matches {missing[0]!r} (from {source!r}); looked in {Path.cwd()}")
        return _open_files(files, video_column=video_column, label_column=label_column)
    return _open_hub(source, split=split, video_column=video_column, label_column=label_column)
