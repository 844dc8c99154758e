import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from transformers_vjepa import synthetic
from transformers_vjepa.synthetic import (
    APPEARANCES,
    MOTIONS,
    CorpusConfig,
    build_corpus,
    load_labels,
    render_clip,
)

TINY = CorpusConfig(num_train=10, num_test=4, size=32, num_frames=14, fps=10, seed=3)
OPPOSITES = [
    ("left", "right"),
    ("up", "down"),
    ("rotate_clockwise", "rotate_counterclockwise"),
    ("zoom_in", "zoom_out"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return build_corpus(tmp_path_factory.mktemp("corpus"), config=TINY, num_processes=1)


def _coverage(appearance: str, motion: str, seed: int, *, size: int = 64, num_frames: int = 9) -> np.ndarray:
    """The shape alone, without textures: what the geometry tests look at."""
    scene = synthetic._sample_scene(np.random.default_rng(seed), size=size)
    times = np.arange(num_frames) - (num_frames - 1) / 2
    return synthetic._render_shape(scene, appearance=appearance, motion=motion, size=size, times=times)[0]


def _decode(path: Path) -> tuple[np.ndarray, list[str]]:
    import av

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    kinds = [av.video.frame.PictureType(frame.pict_type).name for frame in frames]
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), kinds


def _files(root: Path) -> dict[str, bytes]:
    paths = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def test_clip_shape_and_type():
    clip = render_clip(motion="left", appearance="disc", seed=0, size=48, num_frames=6)
    assert clip.shape == (6, 48, 48, 3)
    assert clip.dtype == np.uint8


def test_clip_is_a_function_of_its_arguments():
    first, again, other = (render_clip(motion="up", appearance="bar", seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("motion", "opposite"), OPPOSITES)
@pytest.mark.parametrize("appearance", APPEARANCES)
def test_opposite_motion_is_the_reversed_clip(motion, opposite, appearance):
    clip = render_clip(motion=motion, appearance=appearance, seed=5)
    assert np.array_equal(clip, render_clip(motion=opposite, appearance=appearance, seed=5)[::-1])
    assert not np.array_equal(clip, clip[::-1])


def test_middle_frame_is_the_same_for_all_motions():
    middles = [render_clip(motion=motion, appearance="cross", seed=7, num_frames=9)[4] for motion in MOTIONS]
    assert all(np.array_equal(middle, middles[0]) for middle in middles)


@pytest.mark.parametrize(("motion", "axis"), [("right", 2), ("down", 1)])
def test_translation_moves_by_the_speed_on_the_torus(motion, axis):
    coverage = _coverage("disc", motion, 11)
    speed = synthetic._sample_scene(np.random.default_rng(11), size=64).speed
    # The phase of the lowest frequency of a periodic picture turns by 2 pi per side it is moved by.
    profile = coverage.sum(axis=3 - axis)
    phases = np.angle(profile @ np.exp(2j * np.pi * np.arange(64) / 64))
    steps = np.diff(np.unwrap(phases)) * 64 / (2 * np.pi)
    assert steps == pytest.approx(np.full(8, speed), abs=0.05)
    assert np.allclose(coverage.sum(axis=axis)[0], coverage.sum(axis=axis)[-1], atol=1.0)


def test_rotation_is_clockwise_on_the_screen():
    # A bar that lies flat in the first frame points right and down (y grows downwards) a little later.
    scene = synthetic._sample_scene(np.random.default_rng(0), size=64)
    centre = np.array([32.0, 32.0])
    placed = dataclasses.replace(scene, centre=centre, angle=0.0, turn=math.radians(20))
    coverage, _ = synthetic._render_shape(
        placed, appearance="bar", motion="rotate_clockwise", size=64, times=np.array([0.0, 1.0])
    )
    y, x = np.mgrid[:64, :64] + 0.5 - 32.0
    covariance = (coverage * x * y).sum((1, 2)) / coverage.sum((1, 2))
    assert covariance[0] == pytest.approx(0.0, abs=0.05)
    assert covariance[1] > 5.0


def test_zoom_in_grows_the_area_by_the_squared_rate():
    area = _coverage("triangle", "zoom_in", 1).sum((1, 2))
    zoom = synthetic._sample_scene(np.random.default_rng(1), size=64).zoom
    assert np.log(area[-1] / area[0]) == pytest.approx(2 * 8 * zoom, rel=0.03)


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_shapes_cover_the_area_of_the_disc(appearance):
    radius = synthetic._sample_scene(np.random.default_rng(2), size=128).radius
    area = _coverage(appearance, "right", 2, size=128).sum((1, 2))
    assert area == pytest.approx(np.full(9, math.pi * radius**2), rel=0.02)


def test_all_frames_have_the_same_mean_colour():
    expected = 255 * synthetic._MEAN_LIGHTNESS
    for seed, motion in enumerate(MOTIONS):
        means = render_clip(motion=motion, appearance="disc", seed=seed).mean(axis=(1, 2))
        assert means == pytest.approx(np.full((20, 3), expected), abs=0.5)


def test_shape_is_never_the_colour_of_the_background():
    for seed in range(50):
        scene = synthetic._sample_scene(np.random.default_rng(seed), size=64)
        gap = scene.shape_colours.mean(1)[:, None] - scene.background_colours.mean(1)[None]
        assert np.abs(gap).min() > 0.17
        assert (np.sign(gap) == np.sign(gap[0, 0])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"motion": "sideways", "appearance": "disc"},
            "motion is 'sideways', but it must be one of left, right",
        ),
        ({"motion": "left", "appearance": "star"}, "appearance is 'star', but it must be one of disc, ring"),
    ],
)
def test_unknown_label_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_clip(seed=0, **arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_train": 0}, "num_train is 0, but it must be at least 1"),
        ({"num_test": 0}, "num_test is 0, but it must be at least 1"),
        ({"size": 14}, "size is 14, but it must be at least 16"),
        ({"size": 33}, "size is 33, but H.264 needs an even one: use 34"),
        ({"num_frames": 1}, "num_frames is 1, but it must be at least 2"),
        ({"fps": 0}, "fps is 0, but it must be at least 1"),
        ({"seed": -1}, "seed is -1, but it must be at least 0"),
    ],
)
def test_config_out_of_bounds_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        CorpusConfig(**values)


@pytest.mark.parametrize("number", [1, 7, 40, 99, 400])
def test_labels_are_balanced_and_independent(number):
    labels = synthetic._labels(CorpusConfig(num_train=number), "train")
    assert len(labels) == number
    tables = (
        (Counter(motion for motion, _ in labels), MOTIONS),
        (Counter(appearance for _, appearance in labels), APPEARANCES),
        (Counter(labels), list(itertools.product(MOTIONS, APPEARANCES))),
    )
    for counts, names in tables:
        numbers = [counts[name] for name in names]
        assert sum(numbers) == number
        assert max(numbers) - min(numbers) <= 1


def test_label_order_is_shuffled_and_differs_between_splits_and_seeds():
    orders = [
        synthetic._labels(CorpusConfig(num_train=80, num_test=80, seed=seed), split)
        for seed, split in [(0, "train"), (0, "test"), (1, "train")]
    ]
    assert all(first != second for first, second in itertools.combinations(orders, 2))
    assert [motion for motion, _ in orders[0][:8]] != list(MOTIONS)


def test_files_hold_the_rendered_frames(corpus):
    records = load_labels(corpus, split="train") + load_labels(corpus, split="test")
    assert len(records) == 14
    for record in records[:3]:
        frames, kinds = _decode(record.path)
        seed = [TINY.seed, synthetic.SPLITS.index(record.split), int(record.path.stem)]
        expected = render_clip(motion=record.motion, appearance=record.appearance, seed=seed, size=32, num_frames=14)
        assert frames.shape == expected.shape
        # Compression and halved colour planes change pixels at the edges, not the picture.
        assert np.abs(frames.astype(float) - expected).mean() < 6.0
        assert kinds[0] == "I" and "B" in kinds and "I" in kinds[1:]


def test_splits_share_no_scene(corpus):
    seen = Counter()
    for split in synthetic.SPLITS:
        for record in load_labels(corpus, split=split):
            seed = [TINY.seed, synthetic.SPLITS.index(split), int(record.path.stem)]
            scene = synthetic._sample_scene(np.random.default_rng(seed), size=32)
            seen[(scene.angle, scene.radius, *scene.centre)] += 1
    assert len(seen) == 14


def test_label_files_agree(corpus):
    assert (corpus / "labels.csv").read_text().splitlines()[0] == "path,split,motion,appearance"
    for split, number in (("train", 10), ("test", 4)):
        records = load_labels(corpus, split=split)
        assert len(records) == number
        assert [record.path for record in records] == sorted((corpus / split).glob("*.mp4"))
        for label, names in (("motion", MOTIONS), ("appearance", APPEARANCES)):
            rows = [line.split(" ") for line in (corpus / f"{split}_{label}.csv").read_text().splitlines()]
            assert [corpus / path for path, _ in rows] == [record.path for record in records]
            assert [names[int(index)] for _, index in rows] == [getattr(record, label) for record in records]


def test_second_call_renders_nothing(corpus, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    monkeypatch.setattr(synthetic, "_render_file", lambda job: pytest.fail("rendered again"))
    assert build_corpus(corpus, config=TINY) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_interrupted_render_is_completed(tmp_path, corpus, monkeypatch):
    render_file, rendered = synthetic._render_file, []

    def stop_after_five(job):
        if len(rendered) == 5:
            (tmp_path / "train" / "000005.1.unfinished").write_bytes(b"half a file")
            raise KeyboardInterrupt
        rendered.append(job[0].path)
        render_file(job)

    monkeypatch.setattr(synthetic, "_render_file", stop_after_five)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path, config=TINY, num_processes=1)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match="no manifest.json.*call build_corpus first"):
        load_labels(tmp_path, split="train")

    completed = []

    def remember(job):
        completed.append(job[0].path)
        render_file(job)

    monkeypatch.setattr(synthetic, "_render_file", remember)
    build_corpus(tmp_path, config=TINY, num_processes=1)
    assert len(completed) == 9 and not set(completed) & set(rendered)
    assert _files(tmp_path) == _files(corpus)


def test_corpus_does_not_depend_on_the_number_of_processes(tmp_path, corpus):
    build_corpus(tmp_path, config=TINY, num_processes=2)
    assert _files(tmp_path) == _files(corpus)


def test_other_settings_are_refused(corpus):
    other = dataclasses.replace(TINY, seed=4, fps=20)
    with pytest.raises(ValueError, match=r"fps 10 \(asked for: 20\), seed 3 \(asked for: 4\): delete the folder"):
        build_corpus(corpus, config=other)


def test_other_format_version_is_refused(corpus, monkeypatch):
    monkeypatch.setattr(synthetic, "_FORMAT_VERSION", 2)
    with pytest.raises(ValueError, match=r"format_version 1 \(asked for: 2\)"):
        build_corpus(corpus, config=TINY)


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(ValueError, match="not empty and not a synthetic corpus"):
        build_corpus(tmp_path, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_manifest_says_what_was_rendered(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest == {"format_version": 1, **dataclasses.asdict(TINY)}


def test_unknown_split_is_refused(corpus):
    with pytest.raises(ValueError, match="split is 'validation', but it must be one of train, test"):
        load_labels(corpus, split="validation")
