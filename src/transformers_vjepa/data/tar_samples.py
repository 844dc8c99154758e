"""
The clips of a WebDataset tar: the one reader of samples, for tars on the disk and tars that are streamed.

A sample is the members whose names are equal up to the first dot after the last slash. Its members stand one after the
other. Videos and images are its clips; `.cls` and `.json` (with a `label`) are its label. A sample that breaks these
rules is a fault with the names of the members: never a clip with a wrong label, or with none.
"""

import json
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Generic, NamedTuple, TypeVar

from ..models.vjepa.media_files import VIDEO_EXTENSIONS, extension, is_media
from .class_numbers import plain_label

_LABEL_EXTENSIONS = {".cls", ".json"}
_MAX_LABEL_BYTES = 2**24
# Zeros after the end of a tar, up to which a reader looks for further members. GNU tar fills up to 10 KiB.
_MAX_PADDING = 2**20
_RENAME = "the name of a sample ends at the first dot, so use other marks in names (2024-11-01_cam.mp4)"
_SORT = "write the tar in the order of the names (tar --sort=name)"

Content = TypeVar("Content")
Label = int | float | str


class DamagedTarError(tarfile.ReadError):
    """A tar that is damaged, truncated, compressed, or goes on after its end mark. The text follows its name."""


class _DamagedHeaderError(tarfile.ReadError):
    pass


class _Header(tarfile.TarInfo):
    """A header that must be whole: `tarfile` itself takes a damaged header for the end of the tar."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) in (0, tarfile.BLOCKSIZE) and not buf.strip(b"\0"):
                raise  # the end
            raise _DamagedHeaderError(str(error)) from error


class TarClip(NamedTuple, Generic[Content]):
    """A video or image of a tar, or a sample that cannot be used."""

    #: Name of the member.
    name: str
    #: The label as it was written, a number or a name; `None` without a label.
    label: Label | None
    #: What the function that reads media has returned; `None` with a fault.
    content: Content | None
    #: Why the sample cannot be used, with the names of the members and the remedy; empty if it can be used.
    fault: str = ""


class SampleBounds(NamedTuple):
    """Most bytes of a sample with `one` video or image, and of a sample with `several`."""

    one: int
    several: int


class Tally:
    """Counts of members by kind, each with the first name. Used for what a tar holds beside its clips."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, name: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, name)

    def __contains__(self, kind: str) -> bool:
        return kind in self._counts

    def kinds(self) -> list[str]:
        return sorted(self._counts)

    def text(self, *kinds: str) -> str:
        """For example `12 .txt (such as 0001.txt), 1 .wav (such as 0001.wav)`."""
        return ", ".join(f"{self._counts[kind]} {kind} (such as {self._first[kind]})" for kind in kinds)


class TarFindings:
    """What tars hold beside clips: `unused` members by extension, and `samples` without a label or without a clip."""

    THUMBNAILS, LABELS, UNLABELLED = (
        "images beside a video",
        "labels without a video or image",
        "videos or images without a label",
    )

    def __init__(self) -> None:
        self.unused, self.samples = Tally(), Tally()

    def unmatched(self) -> str:
        """Why labels and videos do not belong together; empty if they do."""
        if self.LABELS not in self.samples or self.UNLABELLED not in self.samples:
            return ""
        found = f"{self.samples.text(self.LABELS)} beside {self.samples.text(self.UNLABELLED)}"
        return f"{found}: put a label into the folder of its video, under the same name; {_RENAME}"


class _Sample(Generic[Content]):
    """The members of a sample so far: media by field (the name after its first dot), and labels."""

    def __init__(self, key: str) -> None:
        self.key, self.fault, self.faulty = key, "", ""
        self.media: dict[str, tuple[str, Content]] = {}
        self.labels: dict[str, tuple[str, Label]] = {}
        self.size = 0

    def refuse(self, name: str, fault: str) -> None:
        """Keep the first fault, and nothing else in memory."""
        if not self.fault:
            self.fault, self.faulty = fault, name
        self.media, self.labels = {}, {}

    def conflict(self, field: str, member: tarfile.TarInfo, *, bounds: SampleBounds | None) -> str:
        """Why a member cannot join the sample; empty if it can."""
        if before := self.media.get(field) or self.labels.get(field):
            return f"{before[0]} and {member.name} have the same place in one sample: leave one of them"
        if bounds is None or not is_media(member.name):
            return ""
        if member.size > bounds.one:
            return f"{member.name} has {member.size} bytes, more than {bounds.one}: download the tar"
        size = self.size + member.size
        if self.media and size > bounds.several:
            several = f"the sample {self.key} has {len(self.media) + 1} videos or images of {size} bytes in total"
            return f"{several}, more than {bounds.several}: {_RENAME}"
        return ""

    def clips(self, findings: TarFindings) -> Iterator[TarClip[Content]]:
        """The clips of the finished sample: its videos, or else its images."""
        if fault := self._contradiction() or self._doubtful():
            self.refuse(next(iter(self.labels.values()))[0], fault)
        if self.fault:
            yield TarClip(self.faulty, None, None, self.fault)
            return
        videos = {field: medium for field, medium in self.media.items() if _is_video(field)}
        for field, (name, _) in self.media.items():
            if videos and field not in videos:
                findings.samples.add(findings.THUMBNAILS, name)
        label = next((value for _, value in self.labels.values()), None)
        if not self.media:
            findings.samples.add(findings.LABELS, next(iter(self.labels.values()))[0])
        for name, content in (videos or self.media).values():
            if label is None:
                findings.samples.add(findings.UNLABELLED, name)
            yield TarClip(name, label, content)

    def _contradiction(self) -> str:
        """The fault if the labels differ."""
        labels = list(self.labels.values())
        for name, value in labels[1:]:
            if plain_label(value) != plain_label(labels[0][1]):
                both = f"{labels[0][0]} and {name} belong to one sample and say {labels[0][1]!r} and {value!r}"
                return f"{both}: leave one label; {_RENAME}"
        return ""

    def _doubtful(self) -> str:
        """The fault if labels with further dots, such as `left.cls`, have fewer videos than the sample."""
        stems = {field.rpartition(".")[0] for field in self.labels}
        if len(self.media) < 2 or not stems or "" in stems:
            return ""
        for field, (name, _) in self.media.items():
            if _is_video(field) and field.rpartition(".")[0] not in stems:
                label = next(iter(self.labels.values()))[0]
                return f"{name} and {label} belong to one sample, but only their first parts are equal: {_RENAME}"
        return ""


@contextmanager
def open_tar(name: str | None = None, *, stream: BinaryIO | None = None) -> Iterator[tarfile.TarFile]:
    """
    Opens a tar, a file by its `name` or a `stream`, for [`read_clips`].

    Raises:
        DamagedTarError: not an uncompressed tar. What is raised while the tar is open becomes this error as well, if
            `tarfile` raises it for damaged sizes and headers.
    """
    try:
        mode = "r:" if stream is None else "r|"
        with tarfile.open(name, mode=mode, fileobj=stream, tarinfo=_Header) as archive:
            yield archive
    except DamagedTarError:
        raise
    except (tarfile.TarError, OverflowError, LookupError) as error:
        remedy = "copy it again, or decompress it first"
        raise DamagedTarError(f"cannot be read as an uncompressed tar ({error}): {remedy}") from error


def read_clips(
    archive: tarfile.TarFile,
    content: Callable[[tarfile.TarFile, tarfile.TarInfo], Content],
    *,
    findings: TarFindings,
    bounds: SampleBounds | None = None,
) -> Iterator[TarClip[Content]]:
    """
    The clips of a tar, in its order.

    Args:
        archive: see [`open_tar`].
        content: called with each video and image; what it returns is the `content` of the clip.
        findings: gets what the tar holds beside its clips.
        bounds: a sample beyond them is a fault. For readers that hold a sample in memory.

    Raises:
        DamagedTarError: while iterating.
    """
    finished: set[int] = set()  # hashes of keys: 70 MB for a million samples of one tar
    sample: _Sample[Content] | None = None
    for member in _members(archive):
        if not _is_part(member, findings):
            continue
        label, fault = (None, "") if is_media(member.name) else _read_label(archive, member)
        if label is None and not fault and not is_media(member.name):
            continue  # JSON about other things
        key, field = _key_and_field(member.name)
        if sample is None or key != sample.key:
            if sample is not None:
                yield from sample.clips(findings)
            sample = _Sample(key)
            if hash(key) in finished:
                fault = fault or f"{member.name} stands apart from the other members of its sample: {_SORT}"
            finished.add(hash(key))
        fault = fault or sample.conflict(field, member, bounds=bounds)
        if fault or sample.fault:
            sample.refuse(member.name, fault)
        elif label is not None:
            sample.labels[field] = member.name, label
        else:
            sample.media[field] = member.name, content(archive, member)
            sample.size += member.size
    if sample is not None:
        yield from sample.clips(findings)


def _key_and_field(name: str) -> tuple[str, str]:
    """WebDataset's rule: a name is its folder and the base up to the first dot, and the field after the dot."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    return folder + slash + stem, field.lower()


def _is_video(field: str) -> bool:
    return extension(f"_.{field}") in VIDEO_EXTENSIONS


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of a tar up to its end mark, after which nothing may follow."""
    try:
        for member in archive:
            archive.members = []  # otherwise tarfile keeps every header in memory
            yield member
    except _DamagedHeaderError as error:
        raise DamagedTarError(f"is damaged or truncated at byte {archive.offset}: copy the tar again") from error
    if archive.fileobj.read(_MAX_PADDING).strip(b"\0"):
        joined = "joined with cat: join them with tar --concatenate, or pass them one by one"
        raise DamagedTarError(f"goes on after its end mark at byte {archive.offset}, as tars do that were {joined}")


def has_end_mark(archive: tarfile.TarFile) -> bool:
    """Whether a tar that was read to its end has an end mark. Without one it may be truncated."""
    return archive.fileobj.tell() > archive.offset


def _is_part(member: tarfile.TarInfo, findings: TarFindings) -> bool:
    """Whether a member may be a clip or a label. Hidden files and folders are not, such as `._0001.mp4` of macOS."""
    parts = member.name.removeprefix("./").split("/")
    if member.isdir() or "__MACOSX" in parts or any(part.startswith(".") for part in parts if part != ".."):
        return False
    if not member.isreg() or member.sparse is not None:
        findings.unused.add("links, devices or sparse files", member.name)
        return False
    if is_media(member.name) or extension(member.name) in _LABEL_EXTENSIONS:
        return True
    findings.unused.add(extension(member.name) or "without an extension", member.name)
    return False


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[Label | None, str]:
    """The label in a `.cls` or `.json` member (`None` if JSON has none), and the fault if it is not a label."""
    if member.size > _MAX_LABEL_BYTES:
        return None, f"{member.name} has {member.size} bytes: a label has at most {_MAX_LABEL_BYTES}"
    data = archive.extractfile(member).read()
    try:
        text = data.decode("utf-8-sig", errors="surrogateescape").strip()
        if extension(member.name) == ".json" or text[:1] in ("{", '"'):
            value = json.loads(text)
            if isinstance(value, dict):
                value = value.get("label")
            elif isinstance(value, list):  # other metadata
                value = None
            return None if plain_label(value) is None else value, ""
        if not text or "\0" in text or len(text.splitlines()) > 1:
            raise ValueError("expected one line of text")
        return None if plain_label(text) is None else text, ""
    except (ValueError, RecursionError) as error:
        return None, f"{member.name} holds no label, but {data[:40]!r} ({error}): write one number or class name"
