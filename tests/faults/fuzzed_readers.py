"""What is fuzzed: readers of foreign bytes, each with what it is fed and the errors that it promises."""

import io
import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from checkpoint_folders import write_checkpoint
from datasets import ClassLabel, Features, IterableDataset, Value, Video
from hypothesis import strategies as st
from PIL import Image
from published import published_checkpoint_of, published_probe_of
from reference import TINY
from safetensors.torch import save_file

from transformers_vjepa import ClipSampling, StreamPosition, VJEPAConfig, VJEPAForPreTraining, clip_stream
from transformers_vjepa.command_line.parsing import parse_with_recipe
from transformers_vjepa.conversion.conversion import classifier_config, convert_weights, read_folder
from transformers_vjepa.conversion.recognition import recognise_config
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.evaluation.features import FeatureStore, summarise_features
from transformers_vjepa.evaluation.shards import ShardContents, ShardFolder, write_safetensors
from transformers_vjepa.models.vjepa.decoding import VideoCache, probe_video, read_clip, read_segments
from transformers_vjepa.models.vjepa.media_files import IMAGE_EXTENSIONS, read_image
from transformers_vjepa.safety.safe_loading import read_checkpoint, screen_checkpoint
from transformers_vjepa.training.checkpoints import resolve_checkpoint

DECODING = {"CorruptVideoError", "DecodingError", "NoVideoStreamError", "TooShortVideoError"}
WILD = Path(__file__).resolve().parents[3] / "shared" / "data" / "decoder"

# Damaging files -----------------------------------------------------------------------------------------

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 3 * 10**7)


def damaged(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """The bytes with one to four random damages; one case in fifty is noise."""
    if rng.random() < 0.02:
        return rng.bytes(int(rng.integers(0, 600)))
    result = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not result:
            break
        _DAMAGES[rng.integers(len(_DAMAGES))](result, _place(len(result), rng), rng, others)
    return bytes(result)


def _place(size: int, rng: np.random.Generator) -> int:
    """Anywhere, or in the first or last bytes, where headers and indices are."""
    edge = min(size, 700)
    return int((rng.integers(size), rng.integers(edge), size - 1 - rng.integers(edge))[rng.integers(3)])


def _flip(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    data[at] ^= 1 << int(rng.integers(8))


def _overwrite(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    noise = rng.bytes(int(rng.integers(1, 9)))
    data[at : at + len(noise)] = noise


def _number(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    value, size = _INTERESTING[rng.integers(len(_INTERESTING))], int(rng.choice([1, 2, 4, 8]))
    order = "big" if rng.random() < 0.5 else "little"
    data[at : at + size] = (value % 256**size).to_bytes(size, order)


def _delete(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    del data[at : at + int(rng.integers(1, 200))]


def _repeat(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    data[at:at] = data[at : at + int(rng.integers(1, 200))]


def _truncate(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    del data[at:]


def _splice(data: bytearray, at: int, rng: np.random.Generator, others: list[bytes]) -> None:
    other = others[rng.integers(len(others))]
    start = int(rng.integers(len(other) + 1))
    data[at:] = other[start:]


_DAMAGES = (_flip, _flip, _overwrite, _number, _number, _number, _delete, _repeat, _truncate, _splice)


class Damaged:
    """A reader that is fed damaged copies of whole files."""

    name: str
    cases: int
    named: set[str] = set()  # errors that only we raise
    ours: set[str] = set()  # errors of Python that count if they are raised by our code

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder
        self.seeds = self.make_seeds(rng)

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        raise NotImplementedError

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        raise NotImplementedError

    def case(self, rng: np.random.Generator) -> None:
        self.read(damaged(self.seeds[rng.integers(len(self.seeds))], rng, self.seeds), rng)


# Videos and pictures ------------------------------------------------------------------------------------


def encoded(
    container: str, codec: str, *, size: int = 32, frames: int = 8, options: dict[str, str] | None = None
) -> bytes:
    """A small video of moving noise."""
    file = Path(f"seed.{container}")  # some are written twice, which needs a file
    noise = np.random.default_rng(0).integers(0, 256, (size, 2 * size, 3), dtype=np.uint8)
    with av.open(str(file), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width = stream.height = size
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
        for index in range(frames):
            picture = np.ascontiguousarray(noise[:, index : index + size])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return file.read_bytes()


_PLAYLISTS = (
    b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    b"ffconcat version 1.0\nfile 'a.mp4'\n",
    b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
)


class Videos(Damaged):
    name, cases, named = "video", 1800, DECODING

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        fragmented = {"movflags": "frag_keyframe+empty_moov"}
        return [
            encoded("mp4", "libx264"),
            encoded("mp4", "libx264", options={"movflags": "faststart"}),
            encoded("mp4", "libx264", options=fragmented),
            encoded("mov", "mpeg4"),
            encoded("mov", "png"),
            encoded("avi", "mpeg4"),
            encoded("avi", "mjpeg"),
            encoded("matroska", "libx264"),
            encoded("matroska", "ffv1"),
            encoded("webm", "libvpx"),
            encoded("webm", "libvpx-vp9"),
            encoded("mpegts", "mpeg2video"),
            encoded("mpeg", "mpeg1video"),
            encoded("flv", "flv"),
            encoded("asf", "wmv2"),
            encoded("gif", "gif"),
            encoded("nut", "mpeg4"),
            encoded("ivf", "libvpx"),
            *_PLAYLISTS,
        ]

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        sampling = ClipSampling(num_frames=3, frame_step=int(rng.integers(1, 3)))
        source: Any = data
        if rng.random() < 0.5:
            source = self.folder / "video.mp4"
            source.write_bytes(data)
        kind = rng.integers(4)
        if kind == 0:
            probe_video(source)
        elif kind == 1:
            read_segments(source, num_segments=2, sampling=sampling, cache=VideoCache(10**6))
        else:
            read_clip(source, sampling=sampling, generator=torch.Generator().manual_seed(int(rng.integers(2**31))))


class WildVideos(Videos):
    """Real files, beside the project; fewer, since they are larger."""

    name, cases = "wild video", 250

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        return [file.read_bytes() for file in sorted(WILD.iterdir()) if 0 < file.stat().st_size < 130_000]


class Pictures(Damaged):
    name, cases, named = "picture", 7500, DECODING

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        picture = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6  # orientation
        seeds = []
        for kind, mode, settings in (
            ("PNG", "RGB", {}),
            ("PNG", "P", {}),
            ("PNG", "I;16", {}),
            ("JPEG", "RGB", {"exif": exif}),
            ("JPEG", "CMYK", {}),
            ("WEBP", "RGB", {"exif": exif}),
            ("WEBP", "RGBA", {"lossless": True}),
            ("GIF", "P", {}),
            ("BMP", "RGB", {}),
            ("TIFF", "RGB", {"compression": "tiff_lzw"}),
            ("TIFF", "RGB", {}),
            ("PPM", "RGB", {}),
            ("JPEG2000", "RGB", {}),
            ("PNG", "LA", {}),
            ("TIFF", "F", {}),
            ("GIF", "P", {"save_all": True, "append_images": [picture.rotate(90)]}),
            *([("AVIF", "RGBA", {})] if ".avif" in IMAGE_EXTENSIONS else []),
        ):
            file = io.BytesIO()
            converted = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
            converted.save(file, kind, **settings)
            seeds.append(file.getvalue())
        return [*seeds, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"]

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        read_image(data, "a picture")


# Corpora ------------------------------------------------------------------------------------------------


def _with_checksums(data: bytes) -> bytes:
    """A tar whose headers have the right checksums, so that what they say is believed."""
    result, at = bytearray(data), 0
    while at + 512 <= len(result) and any(result[at : at + 512]):
        total = sum(result[at : at + 148]) + 8 * ord(" ") + sum(result[at + 156 : at + 512])
        result[at + 148 : at + 156] = b"%06o\0 " % total
        size = result[at + 124 : at + 135].strip(b"\0 ")
        at += 512 + (-(-int(size, 8) // 512) * 512 if size and not size.strip(b"01234567") else 0)
    return bytes(result)


class Tars(Damaged):
    name, cases = "tar", 1800
    ours = {"ValueError", "OSError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        seeds = []
        for layout in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=layout) as archive:
                for name, data in (
                    ("a/0.mp4", rng.bytes(700)),
                    ("a/0.cls", b"3"),
                    ("a/1.jpg", rng.bytes(40)),
                    ("a/1.json", b'{"label": 7}'),
                    ("../\xfc" + "long" * 20 + ".mp4", rng.bytes(600)),
                ):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
                for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
                    info = tarfile.TarInfo("link.mp4")
                    info.type, info.linkname = kind, "/etc/passwd"
                    archive.addfile(info)
            seeds.append(file.getvalue()[: 8 * 1024])
        return seeds

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        file = self.folder / "shard.tar"
        file.write_bytes(_with_checksums(data) if rng.random() < 0.8 else data)
        corpus = open_corpus(file)
        assert len(corpus.labels) == len(corpus)
        for index in range(len(corpus)):
            corpus.describe(index)
            assert len(corpus.read(index).data) <= len(data)


class Parquets(Damaged):
    name, cases = "parquet", 800
    ours = {"ValueError", "OSError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        features = Features({"video": Video(), "label": ClassLabel(names=["a", "b"])})
        videos = [{"bytes": rng.bytes(90), "path": f"{index}.mp4"} for index in range(4)]
        videos += [{"bytes": None, "path": path} for path in ("x/1.mp4", "../../etc/passwd", "https://h/x.mp4")]
        labels = [0, 1, 0, 1, 0, 1, 0]
        typed = pa.table({"video": videos, "label": labels}, schema=features.arrow_schema)
        plain = pa.table({"clip": [rng.bytes(50) for _ in labels], "cls": labels})
        seeds = []
        for table, compression in ((typed, "none"), (typed, "snappy"), (plain, "none")):
            file = io.BytesIO()
            pq.write_table(table, file, row_group_size=3, compression=compression)
            seeds.append(file.getvalue())
        return seeds

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        file = self.folder / "rows.parquet"
        file.write_bytes(data)
        corpus = open_corpus(file)
        assert len(corpus.labels) == len(corpus)
        for index in range(min(len(corpus), 20)):
            corpus.describe(index)
            clip = corpus.read(index)
            assert clip.refused or not isinstance(clip.data, str) or "://" in clip.data or "/x/" in clip.data


class Indices:
    """Text in the form of an index, and not."""

    name, cases = "index", 1200
    named: set[str] = set()
    ours = {"ValueError", "FileNotFoundError"}
    _words = st.text(max_size=12) | st.sampled_from(
        [
            "a.mp4",
            "/etc/passwd",
            "x y.avi",
            "../../a.webm",
            "https://u:p@h/x.mp4?t=1",
            '"q.mkv"',
            "\udcff.mp4",
            "-",
            ";rm",
        ]
    )
    _labels = st.integers(-3, 10).map(str) | st.integers().map(str) | st.text(max_size=4) | st.just("9" * 5000)
    _lines = st.tuples(_words, st.sampled_from([" ", ",", "\t", "", ", "]), _labels).map("".join)
    examples = st.tuples(
        st.lists(_lines, max_size=6).map("\n".join) | st.text(max_size=60),
        st.sampled_from([".csv", ".txt"]),
        st.booleans(),
    )

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder

    def case(self, example: tuple[str, str, bool]) -> None:
        text, extension, has_mark = example
        file = self.folder / f"index{extension}"
        file.write_bytes(b"\xef\xbb\xbf" * has_mark + text.encode("utf-8", "surrogatepass"))
        corpus = open_corpus(file)
        assert len(corpus.labels) == len(corpus) > 0
        for index in range(len(corpus)):
            assert corpus.read(index).path == corpus.describe(index)


# Recipes and JSON ---------------------------------------------------------------------------------------

_JSON_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([0, -1, 1, 2**31, 10**9, "", "nan", "-1", "auto", "vjepa"])
)
JSON = st.recursive(
    _JSON_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


@st.composite
def edited(draw: Callable, document: Any) -> Any:
    """A copy of a JSON document in which one to three values are others, missing or new."""
    result = json.loads(json.dumps(document))
    if draw(st.integers(0, 19)) == 0:
        return draw(JSON)
    for _ in range(draw(st.integers(1, 3))):
        place = result
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
                break
            place = place[key]
        if not isinstance(place, (dict, list)) or not place:
            break
        if draw(st.integers(0, 4)) == 0:
            del place[key]
        else:
            is_number = type(place[key]) is int and draw(st.booleans())
            place[key] = draw(st.integers(0, 9) if is_number else JSON)
        if isinstance(place, dict) and draw(st.integers(0, 5)) == 0:
            place[draw(st.text(max_size=5))] = draw(JSON)
    return result


@dataclass
class _Recipe:
    """Arguments of every kind that the scripts have."""

    steps: int = 1
    rate: float = 0.1
    name: str = "a"
    path: str | None = None
    size: int | None = None
    is_fast: bool = False
    sources: list[str] = field(default_factory=lambda: ["a"])
    rates: list[float] = field(default_factory=lambda: [1.0])
    action: Literal["warn", "stop"] = "warn"
    extra: dict[str, Any] | str | None = None


class Recipes:
    name, cases = "recipe", 600
    named: set[str] = set()
    ours = {"ValueError"}
    _good = {
        "steps": 3,
        "rate": "1e-3",
        "name": "b",
        "sources": ["x", "y"],
        "rates": [0.1],
        "is_fast": True,
        "size": 4,
    }
    examples = (
        edited(_good).map(lambda values: yaml.safe_dump(values, allow_unicode=True))
        | st.text(max_size=40)
        | st.text("{}[]:,-&*!|>'\"# \n\tab1~", max_size=30)
        | st.sampled_from(
            [
                "!!python/object/apply:os.mkdir [marker]",
                "steps: !!python/name:os.system ''",
                "a: &a [*a]",
                "steps: 3\nsteps: 4",
                "? [1]\n: 2",
                "x: !!timestamp 9999-99-99",
                "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b]\nname: *b",
                "[" * 300,
            ]
        )
    )

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.file = folder / "recipe.yaml"

    def case(self, text: str) -> None:
        self.file.write_bytes(text.encode("utf-8", "surrogatepass"))
        (parsed,) = parse_with_recipe(["--config", str(self.file)], (_Recipe,), description=None)
        for name, kind in (("steps", int), ("rate", float), ("name", str), ("is_fast", bool), ("sources", list)):
            assert isinstance(getattr(parsed, name), kind), (name, getattr(parsed, name))
        assert not Path("marker").exists()


class Configs:
    """config.json of a model."""

    name, cases = "config", 600
    named = {"CheckpointError", "StrictDataclassFieldValidationError", "StrictDataclassClassValidationError"}
    ours = {"ValueError"}
    examples = edited(VJEPAConfig(**TINY).to_dict())

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder

    def case(self, document: Any) -> None:
        (self.folder / "config.json").write_text(json.dumps(document))
        config = VJEPAConfig.from_pretrained(self.folder)
        assert isinstance(config, VJEPAConfig)


class TrainerStates:
    """trainer_state.json of the newest checkpoint."""

    name, cases = "trainer state", 500
    named = {"CheckpointError"}
    ours = {"ValueError"}
    _good = {
        "global_step": 4,
        "epoch": 0.5,
        "max_steps": 8,
        "train_batch_size": 2,
        "log_history": [{"loss": 0.5, "step": 2}],
        "stateful_callbacks": {"TrainerControl": {"args": {"should_save": True}, "attributes": {}}},
        "is_world_process_zero": True,
    }
    examples = edited(_good).map(json.dumps) | st.text(max_size=20)

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self.folder = folder
        write_checkpoint(folder, 4, manifest=False)

    def case(self, text: str) -> None:
        (self.folder / "checkpoint-4" / "trainer_state.json").write_bytes(text.encode("utf-8", "surrogatepass"))
        assert resolve_checkpoint(self.folder, "auto") in (None, str(self.folder / "checkpoint-4"))


def _rows(shards: list[bytes]) -> Any:
    for video in shards:
        for row in range(4):
            yield {"video": video, "label": row}


class Cursors:
    """stream_*.json: how far a streamed corpus was read."""

    name, cases = "cursors", 150
    named = {"StreamError"}
    ours = {"ValueError"}

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        picture = io.BytesIO()
        frames = [Image.new("RGB", (32, 32), index) for index in range(6)]
        frames[0].save(picture, "GIF", save_all=True, append_images=frames[1:])
        self._dataset = IterableDataset.from_generator(
            _rows,
            gen_kwargs={"shards": [picture.getvalue()] * 2},
            features=Features({"video": Value("binary"), "label": Value("int64")}),
        )

    @property
    def examples(self) -> st.SearchStrategy:
        cursor = json.loads(next(itertools.islice(self._stream({}), 5, None))["cursor"])
        edits = edited(cursor).map(json.dumps)
        text = st.one_of(st.just(json.dumps(cursor)), edits, edits, edits, st.text(max_size=10))
        return st.dictionaries(st.sampled_from(["0/0", "0/1"]), text, min_size=1, max_size=2)

    def _stream(self, cursors: dict[str, str]) -> Iterator[dict[str, Any]]:
        position = StreamPosition()
        position.seek(1 if cursors else 0, cursors=cursors)
        stream = clip_stream(
            self._dataset,
            config=VJEPAConfig(**TINY),
            sampling=ClipSampling(num_frames=4, frame_step=1),
            position=position,
            shuffle_buffer=4,
        )
        return iter(stream)

    def case(self, cursors: dict[str, str]) -> None:
        assert "cursor" in next(self._stream(cursors))


# Weights ------------------------------------------------------------------------------------------------


def _zip_of(checkpoint: Any) -> dict[str, bytes]:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class PublishedFiles(Damaged):
    """Files in the published layout: the archive, or the pickle within it, whose checksums then are right."""

    name, cases, named = "published", 800, {"CheckpointError", "LabelError"}
    ours = {"ValueError"}  # of VJEPAConfig
    named |= {"StrictDataclassClassValidationError", "StrictDataclassFieldValidationError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        tiny = VJEPAConfig(**(TINY | {"hidden_size": 12, "pred_hidden_size": 12, "num_attention_heads": 1}))
        self._probe = published_probe_of(12)
        checkpoints = [published_checkpoint_of(tiny, optimizer=True), self._probe]
        self._archives = [_zip_of(checkpoint) for checkpoint in checkpoints]
        return [_saved(checkpoint) for checkpoint in checkpoints]

    def case(self, rng: np.random.Generator) -> None:
        which = rng.integers(len(self.seeds))
        if rng.random() < 0.5:
            return self.read(damaged(self.seeds[which], rng, self.seeds), rng)
        members = dict(self._archives[which])
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = damaged(members[name], rng, [members[name]])
        return self.read(_zipped(members), rng)

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        file = self.folder / "file.pth.tar"
        file.write_bytes(data)
        checkpoint = read_checkpoint(file)
        if "classifier" in checkpoint:
            classifier_config(VJEPAConfig(**(TINY | {"hidden_size": 12})), checkpoint)
        else:
            found = recognise_config(checkpoint, num_attention_heads=1)
            convert_weights(checkpoint, found.config)


class States(Damaged):
    """The states of the Trainer, which resuming unpickles."""

    name, cases, named = "state", 800, {"CheckpointError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        model = torch.nn.Linear(3, 3)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        numpy_state = np.random.RandomState(0).get_state()
        return [_saved(optimizer.state_dict()), _saved({"numpy": numpy_state, "python": (3, (1, 2), None)})]

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        (self.folder / "optimizer.pt").write_bytes(data)
        screen_checkpoint(self.folder)


class Folders(Damaged):
    """model.safetensors of a saved model."""

    name, cases, named = "safetensors", 800, {"CheckpointError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        model = VJEPAForPreTraining(VJEPAConfig(**TINY))
        model.config.save_pretrained(self.folder)
        self.file = self.folder / "model.safetensors"
        weights = {name: value.contiguous() for name, value in list(model.state_dict().items())[:12]}
        save_file(weights, self.file, metadata={"format": "pt"})
        return [self.file.read_bytes()]

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        self.file.write_bytes(data)
        read_folder(self.folder)


class FeatureFolders(Damaged):
    """Shards of features, and what describes them."""

    name, cases, named = "features", 800, {"ShardError"}
    ours = {"OSError"}

    def make_seeds(self, rng: np.random.Generator) -> list[bytes]:
        shards = ShardFolder(
            self.folder / "features",
            stem="features",
            suffix=".safetensors",
            num_items=3,
            shard_size=3,
            settings={"kind": "mean", "dtype": "float32", "class_names": ["a"], "num_views": 1},
        )
        tensors = {"features": torch.ones(2, 1, 4), "labels": torch.zeros(2).long(), "index": torch.arange(2)}
        self.file, self.settings = shards.path(0), shards.folder / "settings.json"
        write_safetensors(self.file, ShardContents(tensors, ["a.mp4", "b.mp4"], [(2, "c.mp4", "OSError: broken")]))
        self._settings = self.settings.read_bytes()
        return [self.file.read_bytes()]

    def read(self, data: bytes, rng: np.random.Generator) -> None:
        settings, contents = self._settings, self.seeds[0]
        if rng.random() < 0.3:
            settings = damaged(settings, rng, [settings])
        else:
            contents = data
        self.settings.write_bytes(settings)
        self.file.write_bytes(contents)
        store = FeatureStore(self.settings.parent)
        for index in range(min(len(store), 4)):
            store[index]
        summarise_features(self.settings.parent)


READERS = {
    reader.name: reader
    for reader in (
        Videos,
        *([WildVideos] if WILD.is_dir() else []),
        Pictures,
        Tars,
        Parquets,
        Indices,
        Recipes,
        Configs,
        TrainerStates,
        Cursors,
        PublishedFiles,
        States,
        Folders,
        FeatureFolders,
    )
}
