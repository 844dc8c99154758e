import dataclasses
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import stats

from transformers_vjepa.analysis.baselines import BASELINES
from transformers_vjepa.data import synthetic
from transformers_vjepa.data.synthetic import (
    APPEARANCES,
    DISTURBANCES,
    MOTIONS,
    CorpusConfig,
    Scene,
    build_corpus,
    load_labels,
    render_clip,
    render_scene,
    sample_scene,
)
from transformers_vjepa.evaluation.probing import fit_read_out

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


def steady_scene(seed, *, size: int = 64) -> Scene:
    """A scene whose shapes do not twinkle."""
    scene = sample_scene(seed, size=size)
    return dataclasses.replace(scene, shapes=tuple(dataclasses.replace(each, twinkle=0.0) for each in scene.shapes))


def with_shape(scene: Scene, **values) -> Scene:
    """The first shape alone, in the middle of the cycle of sizes, where it neither fades nor wraps round."""
    return dataclasses.replace(scene, shapes=(dataclasses.replace(scene.shapes[0], **{"phase": 0.5, **values}),))


def coverage_of(scene: Scene, *, appearance: str, motion: str, num_frames: int = 9) -> np.ndarray:
    """
    Coverage by the only shape of a scene, (frames, size, size) in [0, 1]. It is rendered in white on an even ground.
    Frames have equal means, so the lightness of the background varies; it is the darkest of each frame.
    """
    contrast = 0.5
    shape = dataclasses.replace(scene.shapes[0], colours=np.full((2, 3), contrast))
    plain = dataclasses.replace(scene, shapes=(shape,), background_colours=np.zeros((2, 3)))
    clip = render_scene(plain, motion=motion, appearance=appearance, num_frames=num_frames)
    light = clip.mean(-1) / 255
    return (light - light.min((1, 2), keepdims=True)) / contrast


def _clips(number: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centred clips of 8 frames at step 2, uint8 (number, 8, 48, 48, 3), and their motions; each as often as any."""
    clips = [
        render_clip(motion=MOTIONS[i % 8], appearance=APPEARANCES[i % 5], seed=[seed, i])[2:18:2]
        for i in range(number)
    ]
    return torch.from_numpy(np.stack(clips)), torch.arange(number) % 8


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
    scene = with_shape(steady_scene(11))
    coverage = coverage_of(scene, appearance="disc", motion=motion)
    # The phase of the lowest frequency of a periodic image turns by 2 pi per side of displacement.
    profile = coverage.sum(axis=3 - axis)
    phases = np.angle(profile @ np.exp(2j * np.pi * np.arange(64) / 64))
    steps = np.diff(np.unwrap(phases)) * 64 / (2 * np.pi)
    assert steps == pytest.approx(np.full(8, scene.speed), abs=0.05)
    assert np.allclose(coverage.sum(axis=axis)[0], coverage.sum(axis=axis)[-1], atol=1.0)


def test_rotation_is_clockwise_on_the_screen():
    # A bar that lies flat points right and down (y grows downwards) a little later.
    scene = dataclasses.replace(steady_scene(0), turn=math.radians(20))
    scene = with_shape(scene, centre=np.array([32.0, 32.0]), angle=0.0)
    coverage = coverage_of(scene, appearance="bar", motion="rotate_clockwise", num_frames=3)
    y, x = np.mgrid[:64, :64] + 0.5 - 32.0
    covariance = (coverage * x * y).sum((1, 2)) / coverage.sum((1, 2))
    assert covariance[1] == pytest.approx(0.0, abs=0.05)
    assert covariance[0] < -3.0 and covariance[2] > 3.0


def test_zoom_in_grows_the_area_by_the_squared_rate():
    scene = with_shape(steady_scene(1))
    area = coverage_of(scene, appearance="triangle", motion="zoom_in").sum((1, 2))
    assert np.log(area[-1] / area[0]) == pytest.approx(2 * 8 * scene.zoom, rel=0.03)


def test_shape_that_outgrows_the_largest_size_fades_and_comes_back_small():
    # Radii of 0.085 to 0.21 sides, of which a shape fades over 15 % of the cycle at each end. At a rate of a
    # fifteenth of the cycle per frame, the phases are 0.8, 0.867, 0.933, 0 (gone), 0.067, 0.133, 0.2.
    cycle = math.log(0.21 / 0.085)
    scene = with_shape(dataclasses.replace(steady_scene(1, size=128), zoom=cycle / 15), phase=1.0)
    coverage = coverage_of(scene, appearance="disc", motion="zoom_in", num_frames=7)
    radius = 128 * 0.085 * np.exp(cycle * np.array([12, 13, 14, 0, 1, 2, 3]) / 15)
    opacity = np.array([1, 8 / 9, 4 / 9, 0, 4 / 9, 8 / 9, 1])
    assert coverage.sum((1, 2)) == pytest.approx(opacity * math.pi * radius**2, rel=0.02, abs=1e-3)
    assert coverage.max((1, 2)) == pytest.approx(opacity, abs=0.01)  # a grey level is 0.008


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_shapes_cover_the_area_of_the_disc(appearance):
    radius = 128 * math.sqrt(0.085 * 0.21)  # the middle of the cycle is the geometric mean
    scene = with_shape(steady_scene(2, size=128))
    area = coverage_of(scene, appearance=appearance, motion="right").sum((1, 2))
    assert area == pytest.approx(np.full(9, math.pi * radius**2), rel=0.02)


# Corners of shapes with the area pi.
CORNERS = {
    "triangle": math.sqrt(math.pi / (3 * math.sqrt(3))) * np.array([(-math.sqrt(3), 1), (math.sqrt(3), 1), (0, -2)]),
    "bar": math.sqrt(math.pi / 4 / 2.8) * np.array([(-2.8, -1), (2.8, -1), (2.8, 1), (-2.8, 1)]),
}


@pytest.mark.parametrize("appearance", CORNERS)
def test_corners_of_large_turned_shapes_are_drawn(appearance):
    # Expected: the polygon as Pillow draws it at 16 times the size, averaged over pixels.
    size, scale, num_frames, centre, turn = 160, 16, 12, np.array([76.3, 83.6]), math.radians(17)
    scene = with_shape(
        dataclasses.replace(steady_scene(3, size=size), turn=turn), phase=0.84, angle=0.0, centre=centre
    )
    coverage = coverage_of(scene, appearance=appearance, motion="rotate_clockwise", num_frames=num_frames)
    radius = size * 0.085 * (0.21 / 0.085) ** 0.84
    for frame, covered in enumerate(coverage):
        angle = turn * (frame - (num_frames - 1) / 2)
        axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        corners = (CORNERS[appearance] @ axes * radius + centre) * scale - 0.5
        image = Image.new("L", (size * scale, size * scale))
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners], fill=1)
        expected = np.asarray(image, dtype=float).reshape(size, scale, size, scale).mean((1, 3))
        assert np.abs(covered - expected).max() < 0.35  # at a corner the antialiasing differs
        assert covered.sum() == pytest.approx(expected.sum(), rel=0.01)


def test_twinkling_shape_loses_and_regains_opacity():
    scene = with_shape(sample_scene(4, size=64), twinkle=0.8, twinkle_period=4.0, twinkle_phase=math.pi)
    coverage = coverage_of(scene, appearance="disc", motion="right", num_frames=5)
    assert coverage.max((1, 2)) == pytest.approx([0.2, 0.6, 1.0, 0.6, 0.2], abs=0.01)


def test_shapes_keep_apart_on_the_torus():
    nearest = []
    for seed in range(40):
        points = np.array([shape.centre for shape in sample_scene(seed, size=64).shapes]) / 64
        assert points.shape == (5, 2) and (points >= 0).all() and (points < 1).all()
        apart = np.abs(points[:, None] - points)
        distances = np.hypot(*np.moveaxis(np.minimum(apart, 1 - apart), -1, 0))[np.triu_indices(5, 1)]
        nearest.append(distances.min())
    # Five points at random have a pair closer than 0.15 in half of all cases.
    assert np.quantile(nearest, 0.1) > 0.2


@pytest.mark.parametrize("draw", [sample_scene, steady_scene])
def test_all_frames_have_the_same_mean_colour(draw):
    for seed, motion in enumerate(MOTIONS):
        disturb = DISTURBANCES[seed % 4]
        clip = render_scene(draw(seed, size=48), motion=motion, appearance="disc", disturb=disturb, disturb_at=10)
        assert clip.mean(axis=(1, 2)) == pytest.approx(np.full((20, 3), 0.45 * 255), abs=0.25)


def test_shape_is_brighter_or_darker_than_the_background():
    # The fainter end of the faintest texture against the nearer end of the background.
    faintest = 0.2 * 0.6 - 0.05
    signs = Counter()
    for seed in range(50):
        scene = sample_scene(seed, size=64)
        for shape in scene.shapes:
            gap = shape.colours.mean(1)[:, None] - scene.background_colours.mean(1)[None]
            assert np.abs(gap).min() >= faintest - 1e-9
            assert (np.sign(gap) == np.sign(gap[0, 0])).all()
            signs[int(np.sign(gap[0, 0]))] += 1
    assert set(signs) == {-1, 1} and min(signs.values()) > 90  # of 250; fewer by chance once in 100,000


@pytest.mark.parametrize("draw", [sample_scene, steady_scene])
@pytest.mark.parametrize("disturb", DISTURBANCES[1:])
@pytest.mark.parametrize("motion", MOTIONS)
def test_frames_before_a_disturbance_are_the_same(motion, disturb, draw):
    scene = draw(6, size=48)
    still = render_scene(scene, motion=motion, appearance="bar", disturb="none", disturb_at=8)
    clip = render_scene(scene, motion=motion, appearance="bar", disturb=disturb, disturb_at=8)
    assert np.array_equal(clip[:8], still[:8])
    # From the very first frame on, by more than a rounding.
    assert np.abs(clip[8:].astype(int) - still[8:]).mean((1, 2, 3)).min() > 0.5


@pytest.mark.parametrize("motion", MOTIONS)
def test_reversed_motion_goes_back_the_way_it_came(motion):
    scene = dataclasses.replace(steady_scene(3, size=48), drift=np.zeros(2))  # twinkling and background continue
    clip = render_scene(scene, motion=motion, appearance="triangle", num_frames=13, disturb="reverse", disturb_at=7)
    assert np.array_equal(clip[6:], clip[6::-1])


@pytest.mark.parametrize("motion", ["left", "rotate_clockwise", "zoom_out"])
def test_jump_displaces_all_shapes(motion):
    scene = sample_scene(3, size=48)
    shapes = [dataclasses.replace(shape, centre=shape.centre + scene.jump) for shape in scene.shapes]
    displaced = dataclasses.replace(scene, shapes=tuple(shapes))
    clip = render_scene(scene, motion=motion, appearance="cross", disturb="jump", disturb_at=12)
    elsewhere = render_scene(displaced, motion=motion, appearance="cross")
    assert np.abs(clip[12:].astype(int) - elsewhere[12:]).max() <= 1
    lengths = [np.hypot(*sample_scene(seed, size=48).jump) / 48 for seed in range(100)]
    assert 0.2 <= min(lengths) < 0.23 and 0.47 < max(lengths) <= 0.5


@pytest.mark.parametrize("motion", ["left", "rotate_clockwise", "zoom_out"])
def test_vanished_shapes_leave_the_background(motion):
    scene = sample_scene(3, size=48)
    clip = render_scene(scene, motion=motion, appearance="cross", disturb="vanish", disturb_at=12)
    background = render_scene(dataclasses.replace(scene, shapes=()), motion=motion, appearance="cross")
    assert np.abs(clip[12:].astype(int) - background[12:]).max() <= 1


@pytest.mark.parametrize("frame", [0, -1])
def test_sizes_are_distributed_alike_in_every_motion(frame):
    areas = {}
    for offset, motion in ((0, "zoom_in"), (1000, "right")):
        scenes = [steady_scene(offset + seed, size=48) for seed in range(300)]
        areas[motion] = [
            coverage_of(scene, appearance="disc", motion=motion, num_frames=20)[frame].sum() for scene in scenes
        ]
    # Without the cycle the logarithms of the radii are 0.24 apart here, and this is 1e-8.
    assert stats.ks_2samp(areas["zoom_in"], areas["right"]).pvalue > 0.01


def test_motion_cannot_be_read_off_means_or_frames_but_off_flow():
    (train, train_motions), (test, test_motions) = _clips(240, seed=1), _clips(160, seed=2)
    highest = stats.binom.ppf(0.999, 160, 1 / 8)  # hits by chance, all but once in 1000
    hits = {}
    for name in ("mean_colours", "single_frame", "raw_pixels", "frame_differences", "optical_flow"):
        read_out = fit_read_out("ridge", BASELINES[name](train), train_motions)
        hits[name] = int((read_out.predict(BASELINES[name](test).numpy()) == test_motions.numpy()).sum())
    assert highest == 34
    assert max(hits["mean_colours"], hits["single_frame"]) <= highest, hits
    # A third of the clips is far from solved, two thirds are a sign that motion is there to be seen.
    assert max(hits["raw_pixels"], hits["frame_differences"]) <= 53, hits
    assert hits["optical_flow"] >= 107, hits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"motion": "sideways", "appearance": "disc"},
            "motion is 'sideways', but it must be one of left, right",
        ),
        ({"motion": "left", "appearance": "star"}, "appearance is 'star', but it must be one of disc, ring"),
        (
            {"motion": "left", "appearance": "disc", "disturb": "explode"},
            "disturb is 'explode', but it must be one of none, jump, vanish, reverse",
        ),
        (
            {"motion": "left", "appearance": "disc", "disturb": "jump"},
            "disturb_at is None, but with disturb='jump' it must be 1 to 19",
        ),
        (
            {"motion": "left", "appearance": "disc", "disturb": "vanish", "disturb_at": 20},
            "disturb_at is 20, but with disturb='vanish' it must be 1 to 19",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
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


def labels_of(root, *, split="train", **settings) -> list[tuple[str, str]]:
    """Motion and appearance of every video of a corpus whose files are there already, so that none is rendered."""
    config = CorpusConfig(**{"num_test": 1, **settings})
    for folder, number in (("train", config.num_train), ("test", config.num_test)):
        (root / folder).mkdir(parents=True)
        for index in range(number):
            (root / folder / f"{index:06d}.mp4").touch()
    (root / "config.json").write_text(json.dumps({"format_version": 2, **dataclasses.asdict(config)}))
    build_corpus(root, config=config)
    return [(record.motion, record.appearance) for record in load_labels(root, split=split)]


@pytest.mark.parametrize("number", [1, 7, 40, 99, 400])
def test_labels_are_balanced_and_independent(tmp_path, number):
    labels = labels_of(tmp_path, num_train=number)
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


def test_label_order_is_shuffled_and_differs_between_splits_and_seeds(tmp_path):
    orders = [
        labels_of(tmp_path / f"{seed}{split}", num_train=80, num_test=80, seed=seed, split=split)
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
        # Compression and halved colour planes change pixels at the edges, not the whole image.
        assert np.abs(frames.astype(float) - expected).mean() < 6.0
        assert kinds[0] == "I" and "B" in kinds and "I" in kinds[1:]


def test_splits_share_no_scene(corpus):
    seen = Counter()
    for split in synthetic.SPLITS:
        for record in load_labels(corpus, split=split):
            scene = sample_scene([TINY.seed, synthetic.SPLITS.index(split), int(record.path.stem)], size=32)
            seen[(scene.speed, scene.turn, *scene.shapes[0].centre)] += 1
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


def test_second_call_renders_nothing(corpus):
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert build_corpus(corpus, config=TINY) == corpus
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_interrupted_render_is_completed(tmp_path, corpus, monkeypatch):
    def interrupt(**arguments):
        if len(list(tmp_path.rglob("*.mp4"))) == 5:
            raise KeyboardInterrupt
        return render_clip(**arguments)

    monkeypatch.setattr(synthetic, "render_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(tmp_path, config=TINY, num_processes=1)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match="no manifest.json.*call build_corpus first"):
        load_labels(tmp_path, split="train")
    rendered = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    assert len(rendered) == 5

    (tmp_path / "train" / "000005.1.unfinished").write_bytes(b"half a file")
    monkeypatch.undo()
    build_corpus(tmp_path, config=TINY, num_processes=1)
    assert {path: path.stat().st_mtime_ns for path in rendered} == rendered
    assert _files(tmp_path) == _files(corpus)


def test_corpus_does_not_depend_on_the_number_of_processes(tmp_path, corpus):
    build_corpus(tmp_path, config=TINY, num_processes=2)
    assert _files(tmp_path) == _files(corpus)


def test_other_settings_are_refused(corpus):
    other = dataclasses.replace(TINY, seed=4, fps=20)
    with pytest.raises(ValueError, match=r"fps 10 \(asked for: 20\), seed 3 \(asked for: 4\): delete the folder"):
        build_corpus(corpus, config=other)


@pytest.mark.parametrize("version", [1, 3])
def test_other_format_version_is_refused(tmp_path, version):
    settings = {"num_train": 2400, "num_test": 800, "size": 64, "num_frames": 20, "fps": 20, "seed": 0}
    (tmp_path / "config.json").write_text(json.dumps({"format_version": version, **settings}))
    message = rf"format_version {version} \(asked for: 2\), size 64 \(asked for: 48\): delete the folder"
    with pytest.raises(ValueError, match=message):
        build_corpus(tmp_path)


def test_foreign_folder_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(ValueError, match="not empty and not a synthetic corpus"):
        build_corpus(tmp_path, config=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_manifest_says_what_was_rendered(corpus):
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest == {"format_version": 2, **dataclasses.asdict(TINY)}


def test_unknown_split_is_refused(corpus):
    with pytest.raises(ValueError, match="split is 'validation', but it must be one of train, test"):
        load_labels(corpus, split="validation")


def test_the_output_folder_is_not_the_place_of_the_built_in_corpus(tmp_path):
    assert synthetic.synthetic_root(str(tmp_path / "run")) == tmp_path / "synthetic"
    with pytest.raises(ValueError, match="synthetic is the folder of the built-in corpus: choose another folder"):
        synthetic.synthetic_root(str(tmp_path / "synthetic"))
