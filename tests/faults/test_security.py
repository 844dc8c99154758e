"""Bytes of strangers run no code, read no other files and forge no logs; secrets are not written down."""

import ast
import base64
import functools
import http.server
import io
import json
import logging
import os
import re
import resource
import shutil
import struct
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Features, Value, Video
from PIL import Image
from reference import TINY
from small_runs import SAMPLING, SMALL, pretrain
from videos import write_tar, write_video

from transformers_vjepa import (
    Decoding,
    VJEPAConfig,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAVideoProcessor,
    clip_stream,
)
from transformers_vjepa.command_line.parsing import user_errors
from transformers_vjepa.commands import evaluate, extract_features
from transformers_vjepa.data.clip_reading import BrokenVideoMonitor, RefusedClipError, read_frames
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.splits import SplitError, write_manifest
from transformers_vjepa.models.vjepa import media_files
from transformers_vjepa.models.vjepa.clip_sampling import CorruptVideoError
from transformers_vjepa.models.vjepa.decoding import decode_frames, probe_video, read_clip
from transformers_vjepa.pretraining import setup
from transformers_vjepa.pretraining.arguments import parse_arguments
from transformers_vjepa.safety.sanitizing import address_without_secrets, json_text, log_line, without_secrets

ROOT = Path(__file__).resolve().parents[2]

# What the source says ------------------------------------------------------------------------------------


def _violations(tree: ast.AST) -> Iterator[str]:
    """Calls that run what they are given, or may."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        last = name.rpartition(".")[2]
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{name} without weights_only=True"
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            yield name
        if re.match(r"(pickle|dill|joblib|marshal|shelve)\.(loads?|open|Unpickler)$", name):
            yield name
        if re.match(r"yaml\.(unsafe_load|full_load|load)(_all)?$", name):
            yield name
        if last in ("extract", "extractall", "unpack_archive"):
            yield name
        if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
            yield f"{name}({given})"
        if given.get("trust_remote_code", "False") != "False":
            yield f"{name}(trust_remote_code={given['trust_remote_code']})"


@pytest.mark.parametrize(
    "source, violation",
    [
        ("torch.load(f)", "torch.load without weights_only=True"),
        ("torch.load(f, weights_only=False)", "torch.load without weights_only=True"),
        ("pickle.load(f)", "pickle.load"),
        ("np.load(f, allow_pickle=True)", "np.load({'allow_pickle': 'True'})"),
        ("yaml.load(f, Loader)", "yaml.load"),
        ("subprocess.run(c, shell=True)", "subprocess.run({'shell': 'True'})"),
        ("M.from_pretrained(n, trust_remote_code=True)", "M.from_pretrained(trust_remote_code=True)"),
        ("tar.extractall(p)", "tar.extractall"),
        ("eval(x)", "eval"),
    ],
)
def test_violations_are_noticed(source, violation):
    assert list(_violations(ast.parse(source))) == [violation]


def test_no_source_file_runs_what_it_reads():
    files = [file for folder in ("src", "scripts", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 40
    found = {str(file): list(_violations(ast.parse(file.read_text()))) for file in files}
    assert {file: violations for file, violations in found.items() if violations} == {}


# Files that name other files -----------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """Address of an HTTP server for the files below tmp_path / "served", and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            asked.append(path)
            return super().translate_path(path)

        def log_message(self, *args: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def _playlists(video: str) -> dict[str, str]:
    """Texts that have FFmpeg open `video`."""
    segment = f"#EXTINF:10,\n{video}\n#EXT-X-ENDLIST\n"
    dash = "urn:mpeg:dash:schema:mpd:2011"
    return {
        "hls.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n{segment}",
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n{segment}",
        "concat.mp4": f"ffconcat version 1.0\nfile '{video}'\n",
        "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 0 RTP/AVP 96\n",
        "dash.mp4": f'<MPD xmlns="{dash}" type="static"><Period><AdaptationSet mimeType="video/mp4"><Representation '
        f'id="1" bandwidth="1"><BaseURL>{video}</BaseURL></Representation></AdaptationSet></Period></MPD>',
        "frame%03d.png": "not a picture",
    }


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
@pytest.mark.parametrize("name", _playlists(""))
def test_playlists_open_no_other_file_and_no_address(tmp_path, server, backend, name):
    if backend != "pyav":
        try:
            read_clip(write_video(tmp_path / "a.mp4", level=9, size=(48, 64)), sampling=SAMPLING, backend=backend)
        except ImportError as error:
            pytest.skip(f"{backend} is not usable here: {error}")
    address, asked = server
    write_video(tmp_path / "served" / "secret.mp4", level=99)
    for level, picture in enumerate(("frame000.png", "frame001.png")):
        Image.new("RGB", (32, 32), (level, 0, 0)).save(tmp_path / picture)
    shutil.copy(tmp_path / "served" / "secret.mp4", tmp_path / "secret.mp4")
    for video in ("secret.mp4", str(tmp_path / "secret.mp4"), f"http://{address}/secret.mp4"):
        file = tmp_path / name
        file.write_text(_playlists(video)[name])
        for source in (file, file.read_bytes()):
            with pytest.raises(CorruptVideoError, match="it begins as a text or playlist"):
                read_clip(source, sampling=SAMPLING, backend=backend)
    assert asked == []


def _transport_stream(file: Path, *, level: int) -> bytes:
    with av.open(str(file), "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, dtype=np.uint8), format="rgb24")
        for _ in range(30):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.read_bytes()


@pytest.mark.parametrize("backend", ["pyav", "decord", "torchcodec"])
def test_a_playlist_before_a_video_shows_no_other_file(tmp_path, server, backend):
    """PyAV takes such a file for the video behind the playlist; the FFmpeg of decord follows the playlist."""
    address, asked = server
    own = _transport_stream(tmp_path / "own.ts", level=30)
    _transport_stream(tmp_path / "served" / "secret.ts", level=200)
    file = tmp_path / "x.mp4"
    for secret in (tmp_path / "served" / "secret.ts", f"http://{address}/secret.ts"):
        playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n".encode()
        for before in (b"", b"ID3\4\0\0\0\0\0\2ab"):
            data = before + playlist + own
            file.write_bytes(data)
            for source in (file, data):
                with pytest.raises(CorruptVideoError, match="it begins as a text or playlist"):
                    read_clip(source, sampling=SAMPLING, backend=backend)
    assert asked == []


def test_decord_would_have_followed_the_playlist(tmp_path):
    decord = pytest.importorskip("decord")
    own = _transport_stream(tmp_path / "own.ts", level=30)
    _transport_stream(tmp_path / "secret.ts", level=200)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path / 'secret.ts'}\n#EXT-X-ENDLIST\n"
    (tmp_path / "x.mp4").write_bytes(playlist.encode() + own)
    with av.open(str(tmp_path / "x.mp4")) as container:
        assert abs(next(container.decode(video=0)).to_ndarray(format="rgb24").mean() - 30) < 5
    assert abs(decord.VideoReader(str(tmp_path / "x.mp4"))[0].asnumpy().mean() - 200) < 5


def test_the_playlist_would_have_been_followed(tmp_path):
    write_video(tmp_path / "secret.mp4", level=99)
    (tmp_path / "concat.mp4").write_text(_playlists("secret.mp4")["concat.mp4"])
    with av.open(str(tmp_path / "concat.mp4")) as container:
        assert len(list(container.decode(video=0))) == 12


def test_pictures_are_no_programs(tmp_path, monkeypatch):
    """Pillow hands PostScript to Ghostscript; the processor opens files too."""
    marker = tmp_path / "marker"
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\nmkdir {marker}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(program)
    with pytest.raises(CorruptVideoError, match="x.png is not a complete image"):
        decode_frames(tmp_path / "pictures", [0])
    with pytest.raises(CorruptVideoError, match="it is not a complete image"):
        media_files.read_image(program, "x.png")
    with pytest.raises(CorruptVideoError, match="x.png is not a complete image"):
        VJEPAImageProcessor()(str(tmp_path / "pictures" / "x.png"))
    assert not marker.exists()


# Archives and tables -------------------------------------------------------------------------------------


def _write_rows(file: Path, paths: list[str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"video": Video(), "label": Value("int64")})
    rows = {"video": [{"bytes": None, "path": path} for path in paths], "label": list(range(len(paths)))}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), file)
    return file


OUTSIDE = [
    "../secret.mp4",
    "sub/../../secret.mp4",
    "/etc/passwd",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "simplecache::file:///etc/passwd",
    "https://example.org/a.zip::file:///etc/passwd",
    "zip://a.mp4::file:///etc/a.zip",
    "ftp://example.org/a.mp4",
    "memory://a.mp4",
    "\0/etc/passwd",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_rows_name_no_files_outside_of_their_folder(tmp_path, path):
    write_video(tmp_path / "secret.mp4", level=99)
    write_video(tmp_path / "data" / "a.mp4", level=9)
    file = _write_rows(tmp_path / "data" / "rows.parquet", ["a.mp4", path])
    for corpus in (open_corpus(file), open_corpus(tmp_path / "data" / "*.parquet")):
        with pytest.raises(RefusedClipError, match="rows may only name files in .*"):
            read_frames(corpus.read(1), sampling=SAMPLING)
    only = _write_rows(tmp_path / "other" / "rows.parquet", [path])
    for source in (only, tmp_path / "other"):
        with pytest.raises(ValueError, match="holds paths of files outside of its folder, such as"):
            open_corpus(source)


def test_rows_name_files_of_their_folder_and_addresses(tmp_path):
    file = _write_rows(
        tmp_path / "data" / "rows.parquet",
        [
            "a.mp4",
            "sub/b.mp4",
            "sub/../a.mp4",
            str(tmp_path / "data" / "a.mp4"),
            "https://example.org/a.mp4?x=1",
            "hf://datasets/user/name/a.mp4",
            "zip://a.mp4::https://example.org/a.zip",
        ],
    )
    write_video(tmp_path / "data" / "a.mp4", level=9)
    write_video(tmp_path / "data" / "sub" / "b.mp4", level=9)
    clips = [open_corpus(file).read(index) for index in range(7)]
    assert [clip.refused for clip in clips] == [""] * 7
    for clip in clips[:4]:
        assert read_frames(clip, sampling=SAMPLING).shape == (1, 4, 3, 32, 48)


def test_streamed_rows_name_addresses_only(tmp_path):
    file = _write_rows(tmp_path / "rows.parquet", ["a.mp4", "https://example.org/a.mp4"])
    write_video(tmp_path / "a.mp4", level=9)
    corpus = open_corpus(file.as_uri())
    rows = list(corpus.lane(0, lanes=1)[0])
    local, remote = (corpus.encoded(row, where="a row") for row in rows)
    assert remote.refused == ""
    with pytest.raises(RefusedClipError, match=r"it names 'a.mp4': rows may only name addresses \(http, https, hf\)"):
        read_frames(local, sampling=SAMPLING)


def test_refused_rows_are_skipped_as_broken_videos(tmp_path, caplog):
    video = write_video(tmp_path / "data" / "a.mp4", level=9)
    file = _write_rows(tmp_path / "data" / "rows.parquet", ["/etc/passwd", video.name])
    stream = clip_stream(file, config=VJEPAConfig(**TINY), sampling=SAMPLING, shuffle=False)
    example = next(iter(stream))
    assert (example["num_skipped"], example["label"]) == (1, 1)
    assert "RefusedClipError: it names '/etc/passwd'" in caplog.text


def test_tars_are_read_in_place(tmp_path):
    """Names lead nowhere, and links and devices are no videos."""
    video = write_video(tmp_path / "a.mp4", level=9).read_bytes()
    folder = tmp_path / "data"
    folder.mkdir()
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for name in ("/etc/absolute.mp4", "../../outside.mp4", "plain.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(video)
            archive.addfile(info, io.BytesIO(video))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.mp4")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        sparse = tarfile.TarInfo("sparse.mp4")
        sparse.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(sparse)
    before = sorted(tmp_path.rglob("*"))
    corpus = open_corpus(folder)
    assert [corpus.describe(index).rpartition("::")[2] for index in range(len(corpus))] == [
        "/etc/absolute.mp4",
        "../../outside.mp4",
        "plain.mp4",
    ]
    for index in range(3):
        assert corpus.read(index).data == video
        assert read_frames(corpus.read(index), sampling=SAMPLING).shape[1] == 4
    assert sorted(tmp_path.rglob("*")) == before


# Headers that promise too much ---------------------------------------------------------------------------


def _within(megabytes: int, function: Callable[[], object]) -> str:
    """The error that `function` raises in a process that may take so much more memory; empty if none."""
    reading, writing = os.pipe()
    if pid := os.fork():
        os.close(writing)
        with open(reading, "rb") as pipe:
            message = pipe.read().decode()
        assert os.waitpid(pid, 0)[1] == 0
        return message
    message, status = "", 1
    try:
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + megabytes * 2**20,) * 2)
        function()
        status = 0
    except Exception as error:  # told to the process that asks
        message, status = f"{type(error).__name__}: {error}", 0
    finally:
        os.write(writing, message.encode())
        os._exit(status)


def _with_table(data: bytes, table: bytes, *values: int) -> bytes:
    """An MP4 file with other numbers behind the version of a table."""
    at = data.index(table) + 8
    return data[:at] + struct.pack(f">{len(values)}I", *values) + data[at + 4 * len(values) :]


@pytest.mark.skipif(sys.platform != "linux", reason="needs bounds on memory, as Linux has them")
@pytest.mark.parametrize(
    "table, values", [(b"stsz", (1, 80_000_000)), (b"stts", (1, 2**31 - 1)), (b"stsz", (0, 2**31))]
)
def test_a_header_that_promises_frames_gets_no_memory_for_them(tmp_path, table, values):
    video = write_video(tmp_path / "a.mp4", level=9).read_bytes()
    promising = _with_table(video, table, *values)
    message = _within(200, lambda: read_clip(promising, sampling=SAMPLING))
    assert re.match(rf"CorruptVideoError: .*its header promises {values[1]} frames in {len(video)} bytes", message)
    (tmp_path / "b.mp4").write_bytes(promising)
    assert _within(200, lambda: read_clip(tmp_path / "b.mp4", sampling=SAMPLING)).endswith(message[-40:])


def test_sound_may_have_more_samples_than_bytes(tmp_path):
    """Old QuickTime files count the samples of sound that is packed."""
    video = write_video(tmp_path / "a.mp4", level=9).read_bytes()
    hdlr, stts = video.index(b"hdlr") + 12, video.index(b"stts") + 8
    sound = video[:hdlr] + b"soun" + video[hdlr + 4 :]
    sound = sound[:stts] + struct.pack(">3I", 1, 10**8, 1) + sound[stts + 12 :]
    media_files.check_head(io.BytesIO(sound), "a.mov")
    with pytest.raises(CorruptVideoError, match="promises 100000000 frames"):
        media_files.check_head(io.BytesIO(_with_table(sound, b"stts", 1, 10**8, 2)), "a.mov")


def test_fragments_that_promise_frames_are_refused(tmp_path):
    with av.open(str(tmp_path / "f.mp4"), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), dtype=np.uint8), format="rgb24")
        for _ in range(6):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = (tmp_path / "f.mp4").read_bytes()
    assert read_clip(data, sampling=SAMPLING).shape == (4, 3, 32, 48)
    with pytest.raises(CorruptVideoError, match="its header promises 16777217 frames"):
        read_clip(_with_table(data, b"trun", 2**24 + 1), sampling=SAMPLING)


def test_a_compressed_header_is_refused():
    cmov = struct.pack(">I4s", 8, b"cmov")
    data = struct.pack(">I4s", 8 + len(cmov), b"moov") + cmov
    with pytest.raises(CorruptVideoError, match="its header is compressed: convert it"):
        read_clip(data, sampling=SAMPLING)


def test_boxes_may_be_nested_deeply():
    data = b""
    for _ in range(3000):
        data = struct.pack(">I4s", 8 + len(data), b"moov") + data
    with pytest.raises(CorruptVideoError):
        read_clip(data, sampling=SAMPLING)


def _shown_size(data: bytes) -> tuple[int, int, int]:
    info = probe_video(data)
    return info.height, info.width, 3


def _gif(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "GIF")
    data = bytearray(file.getvalue())
    struct.pack_into("<HH", data, 6, width, height)
    return bytes(data)


@pytest.mark.skipif(sys.platform != "linux", reason="needs bounds on memory, as Linux has them")
@pytest.mark.parametrize("side", [14_000, 65_535])
def test_a_header_that_promises_pixels_gets_no_memory_for_them(side):
    assert media_files.read_image(_gif(8, 8), "a picture").shape == _shown_size(_gif(8, 8)) == (8, 8, 3)
    for read in (_shown_size, lambda data: media_files.read_image(data, "a picture")):
        message = _within(200, lambda read=read: read(_gif(side, side)))
        assert re.match("CorruptVideoError: ", message)
    assert re.search("it has (14000x14000|more) pixels.*: scale it down", message)


def test_large_pictures_of_a_video_are_refused(tmp_path, monkeypatch):
    video = write_video(tmp_path / "a.mp4", level=9, size=(64, 64))
    monkeypatch.setattr("transformers_vjepa.models.vjepa.pyav_reader.MAX_PIXELS", 64 * 63)
    with pytest.raises(CorruptVideoError, match="its frames of 64x64 pixels are larger than 4032 pixels"):
        read_clip(video, sampling=SAMPLING)


# Names ---------------------------------------------------------------------------------------------------

NAMES = [
    "a; touch marker.mp4",
    "$(touch marker).mp4",
    "`touch marker`.mp4",
    "a|b.mp4",
    "-vf.mp4",
    "--help.mp4",
    "concat:a.mp4",
    "pipe:0.mp4",
    "http:x.mp4",
    "a%03d.mp4",
    "a\nskipped a broken video: forged.mp4",
    "\x1b[31mred\x07.mp4",
    "\u202egnp.mp4",
    os.fsdecode(b"\xff\xfe.mp4"),
]


@pytest.mark.parametrize("kind", ["folder", "index", "tar"])
def test_any_name_goes_through_the_stream(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    folder, names = tmp_path / "videos", list(NAMES)
    video = write_video(tmp_path / "a.mp4", level=120).read_bytes()
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(video)
    source = folder
    if kind == "index":
        names = [name for name in names if "\n" not in name]
        source = tmp_path / "index.csv"
        source.write_bytes(b"".join(os.fsencode(f"videos/{name} 1\n") for name in names))
    if kind == "tar":
        source = write_tar(tmp_path / "shard.tar", {name: video for name in names})
    stream = clip_stream(
        source, config=VJEPAConfig(**TINY), sampling=SAMPLING, shuffle=False, decoding=Decoding(max_broken_share=0.0)
    )
    examples = [example for example, _ in zip(stream, names, strict=False)]
    assert [example["num_skipped"] for example in examples] == [0] * len(names)
    found = {example["path"] for example in examples}
    prefix = {"folder": f"{folder}/", "index": f"{tmp_path}/videos/", "tar": f"{source}::"}[kind]
    assert found == {prefix + name for name in names}
    assert not list(tmp_path.rglob("marker"))


def test_names_forge_no_lines_of_the_log(tmp_path, caplog):
    monitor = BrokenVideoMonitor(0.5)
    for name in NAMES:
        (tmp_path / name).write_bytes(b"noise")
        with pytest.raises(CorruptVideoError) as error:
            read_clip(tmp_path / name, sampling=SAMPLING)
        monitor.failed(str(tmp_path / name), error.value)
    messages = [record.getMessage() for record in caplog.records if record.name.endswith("clip_reading")]
    assert len(messages) == len(NAMES)
    for name, message in zip(NAMES, messages, strict=True):
        assert message.isprintable()
        assert message.startswith(f"skipped a broken video: {tmp_path}/")
        assert (name in message) == name.isprintable()
    assert r"a\nskipped" in messages[10] and r"\x1b[31mred\x07" in messages[11]
    assert r"\u202e" in messages[12] and r"\udcff\udcfe" in messages[13]


def test_errors_of_scripts_are_one_line():
    with pytest.raises(SystemExit) as exit_info, user_errors():
        raise ValueError("the file a\n\x1b[2J\nerror: forged does not exist: https://u:pass@h/x.tar?token=t")
    assert str(exit_info.value) == r"error: the file a \x1b[2J error: forged does not exist: https://***@h/x.tar?***"


@pytest.mark.parametrize("mark", ["\n", "\r"])
def test_manifests_hold_no_names_that_forge_lines(tmp_path, mark):
    write_video(tmp_path / "class" / f"a.mp4 1{mark}/etc/passwd.mp4".replace("/", "_"), level=9)
    with pytest.raises(SplitError, match="has a line break"):
        write_manifest(open_corpus(tmp_path / "class"), tmp_path / "manifest.csv")


# Secrets -------------------------------------------------------------------------------------------------

TOKEN = "hf_" + "SecretTokenOfTheHub" * 2
PASSWORD, SIGNATURE = "hunter2password", "signature0123456789"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("https://user:pass@host/x.tar", "https://***@host/x.tar"),
        ("https://user:p@ss@host:80/x@2.tar=0.3 b", "https://***@host:80/x@2.tar=0.3 b"),
        ("see 'https://host/a.mp4?X-Sig=1&b=2' and b?c", "see 'https://host/a.mp4?***' and b?c"),
        ("s3://key:secret@bucket/a#token=1", "s3://***@bucket/a?***"),
        (f"token {TOKEN}, {TOKEN}", "token hf_***, hf_***"),
        ("/data/a@b?c#d.mp4", "/data/a@b?c#d.mp4"),
        ("https://user:it's@host/x.tar", "https://***@host/x.tar"),
        ('["https://host/a?x=1","https://host/b?y=2", "c?d"]', '["https://host/a?***","https://host/b?***", "c?d"]'),
        ("see https://host/a?x=it's,2 end", "see https://host/a?*** end"),
        ("https://host/a b.mp4?x=1&X-Amz-Signature=s&y=2", "https://host/a b.mp4?x=1&X-Amz-Signature=***&y=2"),
        ("(https://host/it's.mp4?sig=a%2Fb)", "(https://host/it's.mp4?sig=***"),
        ("https%3A%2F%2Fuser%3Apass%40host%2Fa.tar%3Ftoken%3Dt b", "https%3A%2F%2F***%40host%2Fa.tar%3F*** b"),
        ("proxy?url=http%3a%2f%2fu%3ap%40h", "proxy?url=http%3a%2f%2f***%40h"),
        ("{'Authorization': 'Bearer abc.def', 'x': 1}", "{'Authorization': 'Bearer ***', 'x': 1}"),
        ("authorization: Basic dXNlcjpw", "authorization: Basic ***"),
        ("/data/token=3/policy=a.mp4", "/data/token=3/policy=a.mp4"),
        ("hf://datasets/user/name@main/a.mp4", "hf://datasets/user/name@main/a.mp4"),
    ],
)
def test_secrets_are_left_out(text, expected):
    assert without_secrets(text) == expected


@pytest.mark.parametrize("name", ["a.mp4", "a b.mp4", "it's.mp4", 'say "x".mp4', "a\nb.mp4", "a,b;c.mp4"])
@pytest.mark.parametrize("query", ["?token=t0k", "?anything=t0k", "?t0k", "#t0k", "?a=1&b='t0k'", "?a=it's,t0k"])
def test_no_part_of_a_query_is_left_of_an_address(name, query):
    shown = address_without_secrets(f"https://me:t0k@host/dir/{name}{query}")
    assert shown == f"https://***@host/dir/{name}?***"


def test_what_is_not_printable_is_escaped():
    assert log_line("a\tb\r\nc\x9b\udc80é漢 ") == r"a\tb\r\nc\x9b\udc80é漢 "


def _secrets_in(folder: Path) -> list[str]:
    """Files, at any depth, in which a secret stands as it is, or in base64."""
    found = []
    for secret in (TOKEN, PASSWORD, SIGNATURE):
        forms = [secret.encode(), base64.b64encode(secret.encode())[:-4]]
        found += [
            str(file) for file in folder.rglob("*") if file.is_file() and any(f in file.read_bytes() for f in forms)
        ]
    return found


@pytest.mark.slow
def test_runs_write_no_secrets(tmp_path, server, monkeypatch, caplog, capfd):
    address, asked = server
    for level in range(3):
        write_video(tmp_path / "served" / f"{level}.mp4", level=40 * level + 9)
    prefix = f"http://user:{PASSWORD}@{address}"
    names = ["0.mp4", "missing.mp4", "1.mp4", "2.mp4"]
    index = tmp_path / "index.csv"
    index.write_text("".join(f"{prefix}/{name}?X-Signature={SIGNATURE} 0\n" for name in names))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    caplog.set_level(logging.DEBUG, logger="transformers_vjepa")
    run = tmp_path / "run"
    trainer = pretrain.run(
        [*SMALL, "--dataset", str(index), "--output_dir", str(run), "--hub_token", TOKEN, "--max_broken_share", "0.9"]
    )
    assert trainer.args.hub_token == TOKEN  # it can still push
    assert any("missing.mp4" in path for path in asked)
    assert (run / "training_args.bin").is_file() and list(run.rglob("events.out.*"))
    assert torch.load(run / "training_args.bin", weights_only=False).hub_token is None
    assert _secrets_in(run) == []
    assert _secrets_in(tmp_path) == [str(index)] * 2
    captured = capfd.readouterr()
    assert "missing.mp4" in caplog.text
    for secret in (TOKEN, PASSWORD, SIGNATURE):
        assert secret not in captured.out + captured.err + caplog.text


def test_arguments_and_errors_name_no_secrets(tmp_path):
    url = f"https://user:{PASSWORD}@host/a.zip?token={SIGNATURE}"
    command = [*SMALL, "--dataset", f"{url}=0.3", "--output_dir", str(tmp_path), "--hub_token", TOKEN]
    written = json.dumps(setup.learning_arguments(*parse_arguments(command)))
    assert '"https://***@host/a.zip?***"' in written
    with pytest.raises(SystemExit) as exit_info:
        pretrain.run(command)
    for secret in (TOKEN, PASSWORD, SIGNATURE):
        assert secret not in written + str(exit_info.value)


def test_model_cards_name_no_secrets(tmp_path):
    write_video(tmp_path / "videos" / "a.mp4", level=9)
    command = [*SMALL, "--dataset", str(tmp_path / "videos"), "--output_dir", str(tmp_path / "run")]
    trainer, _ = setup.build_from_argv([*command, "--hub_token", TOKEN])
    trainer.create_model_card(dataset="videos")
    assert (tmp_path / "run" / "README.md").is_file()
    assert _secrets_in(tmp_path) == []


def test_named_clips_of_addresses_are_without_secrets(tmp_path):
    url = f"https://user:{PASSWORD}@host/a.mp4?token={SIGNATURE}"
    (tmp_path / "index.csv").write_text(f"{url} 3\n")
    corpus = open_corpus(tmp_path / "index.csv")
    assert corpus.describe(0) == corpus.read(0).path == "https://***@host/a.mp4?***"
    assert corpus.read(0).data == url
    write_manifest(corpus, tmp_path / "manifest.csv")
    assert (tmp_path / "manifest.csv").read_text() == "https://***@host/a.mp4?*** 3\n"


# The writers of JSON whose values are numbers and names of this package only.
WITHOUT_ADDRESSES = {
    "data/synthetic.py",
    "hub/remote_code.py",
    "safety/output_lock.py",
    "study/plan.py",
    "training/checkpoints.py",
}


def test_every_writer_of_json_leaves_out_secrets():
    writes = re.compile(r"write_text\w*\((?:[^()]|\([^()]*\))*json\.dumps")
    package = ROOT / "src" / "transformers_vjepa"
    found = {file.relative_to(package).as_posix() for file in package.rglob("*.py") if writes.search(file.read_text())}
    assert found <= WITHOUT_ADDRESSES
    assert writes.search('file.write_text(json.dumps(x) + "")')
    assert writes.search("write_text_atomically(f(a), json.dumps")


def test_json_texts_hold_no_secrets():
    url = f"https://user:{PASSWORD}@host/a.zip?token={SIGNATURE}"
    value = {"dataset": url, "broken": [{"path": url, "error": f"cannot read {url}"}], url: (1, None, TOKEN, 0.5)}
    text = json_text(value)
    assert json.loads(text) == {
        "dataset": "https://***@host/a.zip?***",
        "broken": [{"path": "https://***@host/a.zip?***", "error": "cannot read https://***@host/a.zip?***"}],
        "https://***@host/a.zip?***": [1, None, "hf_***", 0.5],
    }
    assert text.endswith("}\n")


def _tiny_classifier(folder: Path) -> Path:
    config = VJEPAConfig(**TINY, id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    VJEPAForVideoClassification(config).save_pretrained(folder)
    VJEPAVideoProcessor.for_config(config).save_pretrained(folder)
    return folder


def test_passes_over_addresses_write_no_secrets(tmp_path, server, monkeypatch, caplog, capfd):
    """Features and evaluations, of an index of addresses and of a tar at an address."""
    address, asked = server
    served = tmp_path / "served"
    videos = [write_video(served / f"{level}.mp4", level=40 * level + 9) for level in range(3)]
    contents = [*(video.read_bytes() for video in videos), b"noise"]
    members = {f"{number}.mp4": data for number, data in enumerate(contents)}
    write_tar(served / "x.tar", dict(sorted((members | {f"{number}.cls": b"1" for number in range(4)}).items())))
    prefix, query = f"http://user:{PASSWORD}@{address}", f"?X-Signature={SIGNATURE}"
    index = tmp_path / "index.csv"
    index.write_text("".join(f"{prefix}/{name}{query} 0\n" for name in ("0.mp4", "missing.mp4", "2.mp4")))
    model = _tiny_classifier(tmp_path / "model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    common = ["--model", str(model), "--use_cpu", "true", "--max_broken_share", "0.9"]
    for number, source in enumerate([str(index), f"{prefix}/x.tar"]):
        for command in (extract_features, evaluate):
            out = tmp_path / "out" / f"{command.__name__.rpartition('.')[2]}-{number}"
            results = command.run([*common, "--dataset", source, "--output_dir", str(out)])
            assert (results["num_videos"], results["num_broken"]) in ((2, 1), (3, 1))
    assert any("missing.mp4" in path for path in asked)
    assert len(list((tmp_path / "out").rglob("*.json"))) >= 6
    assert _secrets_in(tmp_path / "out") == []
    captured = capfd.readouterr()
    for secret in (TOKEN, PASSWORD, SIGNATURE):
        assert secret not in captured.out + captured.err + caplog.text
