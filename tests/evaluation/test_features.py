import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from reference import TINY
from torch.utils.data import DataLoader
from videos import write_video

from transformers_vjepa import ClipSampling, VJEPAConfig, VJEPAModel, VJEPAVideoProcessor
from transformers_vjepa.data.corpora import open_corpus
from transformers_vjepa.data.corpus import SubsetCorpus
from transformers_vjepa.data.evaluation_clips import ClipGeometry
from transformers_vjepa.data.fingerprints import clips_digest, file_stamps
from transformers_vjepa.evaluation.features import (
    FeatureError,
    FeatureSettings,
    FeatureStore,
    encode_in_batches,
    summarise_features,
    weights_hash,
    write_features,
)
from transformers_vjepa.evaluation.shards import PassOptions, ShardError, ShardFolder
from transformers_vjepa.models.vjepa.decoding import read_segments

SAMPLING = ClipSampling(num_frames=4, frame_step=2)
STEPS, CELLS, WIDTH = 2, 16, 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for number in range(5):
        write_video(root / "ab"[number % 2] / f"{number}.mp4", level=40 * number + 20, size=(40, 64))
    (root / "a" / "3broken.mp4").write_bytes(b"noise")
    return root


@pytest.fixture(scope="module")
def model() -> VJEPAModel:
    torch.manual_seed(0)
    return VJEPAModel(VJEPAConfig(**TINY)).eval()


def write(model, folder, out, *, batch_size=3, num_segments=1, num_views=1, sampling=SAMPLING, **settings):
    write_features(
        model,
        open_corpus(folder) if isinstance(folder, Path) else folder,
        out,
        features=FeatureSettings(**{"dtype": "float32", "shard_size": 2, **settings}),
        geometry=ClipGeometry(crop_size=32, sampling=sampling, num_segments=num_segments, num_views=num_views),
        options=PassOptions(batch_size=batch_size, progress=False),
    )


def expected_tokens(model, path, *, num_segments, num_views):
    """(views, segments, tokens, width), computed one clip at a time through the processor."""
    segments = read_segments(path, num_segments=num_segments, sampling=SAMPLING)
    processor = VJEPAVideoProcessor(crop_size=32, num_views=num_views)
    clips = [processor(frames, return_tensors="pt")["pixel_values_videos"] for frames in segments]
    views = torch.stack([clip.reshape(num_views, 4, 3, 32, 32) for clip in clips], dim=1)
    with torch.no_grad():
        return torch.stack([model.get_vision_features(view) for view in views])


@pytest.mark.parametrize(("num_segments", "num_views"), [(1, 1), (2, 3)])
def test_features_by_hand(model, folder, tmp_path, num_segments, num_views):
    tokens = expected_tokens(model, folder / "b" / "1.mp4", num_segments=num_segments, num_views=num_views)
    steps = tokens.unflatten(2, (STEPS, CELLS)).mean(3)
    expected = {"tokens": tokens.flatten(1, 2), "mean": tokens.mean((1, 2)), "time_means": steps.flatten(1, 2)}
    for kind, values in expected.items():
        write(model, folder, tmp_path / kind, kind=kind, num_segments=num_segments, num_views=num_views)
        store = FeatureStore(tmp_path / kind)
        item = store[3]
        assert Path(store.paths[3]).name == "1.mp4" and item["labels"] == 1
        assert item["features"].shape == values.shape
        # Half a grey level: the processor resizes floats where the data set resizes bytes.
        assert torch.allclose(item["features"], values, atol=1e-4), kind


def test_by_default_one_clip_is_sampled_as_the_processor_does(model, folder, tmp_path):
    processor = VJEPAVideoProcessor(crop_size=32, frame_step=2)
    write_features(model, open_corpus(folder), tmp_path, processor=processor, options=PassOptions(progress=False))
    settings = ShardFolder.open(tmp_path).settings
    sampling = settings["sampling"]
    assert (sampling["num_frames"], sampling["frame_step"]) == (model.config.frames_per_clip, 2)
    assert (settings["num_segments"], settings["num_views"], settings["crop_size"]) == (1, 1, 32)
    assert (settings["kind"], settings["dtype"]) == ("tokens", "float16")


def test_settings_that_decide_whether_a_folder_is_accepted(model, folder, tmp_path):
    write(model, folder, tmp_path, kind="mean")
    record = json.loads((tmp_path / "settings.json").read_text())
    assert list(record) == ["stem", "suffix", "num_items", "shard_size", "settings", "notes"]
    hashes = [record["settings"].pop(name) for name in ("weights", "manifest")]
    assert all(len(value) == 64 for value in hashes)
    assert record["settings"] == {
        "kind": "mean",
        "dtype": "float32",
        "crop_size": 32,
        "sampling": asdict(SAMPLING),
        "num_segments": 1,
        "num_views": 1,
        "backend": "pyav",
        "image_mean": VJEPAVideoProcessor.image_mean,
        "image_std": VJEPAVideoProcessor.image_std,
        "weights_dtype": "float32",
        "config": {"num_attention_heads": 3, "layer_norm_eps": 1e-6, "hidden_act": "gelu", "uniform_power": True},
        "class_names": ["a", "b"],
    }


def test_store(model, folder, tmp_path):
    corpus = open_corpus(folder)
    write(model, folder, tmp_path, kind="tokens")
    store = FeatureStore(tmp_path)
    assert len(store) == 5 and store.kind == "tokens" and store.class_names == ("a", "b")
    assert store.labels.tolist() == [0, 0, 0, 1, 1] and store.labels.dtype == np.int64
    assert store.index.tolist() == [0, 1, 3, 4, 5]
    assert [Path(path).name for path in store.paths] == ["0.mp4", "2.mp4", "4.mp4", "1.mp4", "3.mp4"]
    [(index, path, error)] = store.broken
    assert index == 2 and path.endswith("3broken.mp4") and error.startswith("CorruptVideoError")
    assert store.manifest == clips_digest(corpus)
    assert np.array_equal(store.stamps, file_stamps(corpus, store.index))
    assert store.settings["weights"] == weights_hash(model.encoder)
    with pytest.raises(IndexError, match="index 5 is outside of a store of 5 clips"):
        store[5]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_store_is_read_at_random_by_loaders(model, folder, tmp_path, num_workers):
    write(model, folder, tmp_path, kind="mean", num_views=3)
    store = FeatureStore(tmp_path)
    in_order = [store[index] for index in range(5)]
    copy = pickle.loads(pickle.dumps(store))
    order = [4, 0, 3, 1, 2]
    [batch] = DataLoader(copy, batch_size=5, sampler=order, num_workers=num_workers)
    assert batch["labels"].tolist() == [in_order[index]["labels"] for index in order]
    assert torch.equal(batch["features"], torch.stack([in_order[index]["features"] for index in order]))


def test_shard_that_was_cut_short(model, folder, tmp_path):
    write(model, folder, tmp_path, kind="mean")
    store, file = FeatureStore(tmp_path), tmp_path / "features-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    store[0]
    with pytest.raises(ShardError, match="features-00000.safetensors is truncated: delete it"):
        store[1]
    file.unlink()
    with pytest.raises(ShardError, match=r"-00000.safetensors cannot be read any more \(No such file .*\): run the"):
        store[0]


@pytest.mark.parametrize("position", [0.5, 0.999])
def test_a_flipped_bit_is_noticed_before_the_features_are_used(model, folder, tmp_path, position):
    write(model, folder, tmp_path, kind="mean")
    store, file = FeatureStore(tmp_path), tmp_path / "features-00000.safetensors"
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[int(position * len(whole))] ^= 1
    file.write_bytes(damaged)
    for read in (FeatureStore, summarise_features):
        with pytest.raises(ShardError, match="features-00000.safetensors is damaged .*: delete it, and run the same"):
            read(tmp_path)
    write(model, folder, tmp_path, kind="mean")
    assert file.read_bytes() == whole and len(FeatureStore(tmp_path)) == len(store)


def test_a_flipped_bit_in_parquet_is_noticed(model, folder, tmp_path):
    write(model, folder, tmp_path, kind="mean", dtype="float32", file_format="parquet")
    file = tmp_path / "features-00000.parquet"
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(ShardError, match="features-00000.parquet is damaged"):
        summarise_features(tmp_path)


def test_shard_without_a_clip_among_others(model, folder, tmp_path):
    write(model, folder, tmp_path, kind="mean", shard_size=1)
    store = FeatureStore(tmp_path)
    assert [Path(path).name for path in store.paths] == ["0.mp4", "2.mp4", "4.mp4", "1.mp4", "3.mp4"]
    assert len({tuple(store[index]["features"].flatten().tolist()) for index in range(5)}) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_types_on_disk(model, folder, tmp_path, dtype):
    write(model, folder, tmp_path / "exact", kind="tokens")
    write(model, folder, tmp_path / dtype, kind="tokens", dtype=dtype)
    features = FeatureStore(tmp_path / dtype)[0]["features"]
    assert features.dtype == getattr(torch, dtype)
    assert torch.equal(features, FeatureStore(tmp_path / "exact")[0]["features"].to(features.dtype))


def test_features_that_the_type_cannot_hold_are_refused(folder, tmp_path):
    torch.manual_seed(0)
    model = VJEPAModel(VJEPAConfig(**TINY))
    model.encoder.layernorm.weight.data.fill_(1e6)
    with pytest.raises(FeatureError, match="features are not finite in torch.float16: use float32"):
        write(model, folder, tmp_path, dtype="float16")
    write(model, folder, tmp_path / "wide", dtype="bfloat16")
    assert model.training  # as it was


def test_images(model, tmp_path):
    for number in range(3):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        Image.new("RGB", (50, 40), (80 * number, 10, 10)).save(tmp_path / "in" / str(number) / "x.png")
    write(model, tmp_path / "in", tmp_path / "out", kind="mean", num_segments=2)
    store = FeatureStore(tmp_path / "out")
    assert store.labels.tolist() == [0, 1, 2]
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[:, 0] = 160
    pixels[:, 1:] = 10
    processor = VJEPAVideoProcessor(crop_size=32)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    with torch.no_grad():
        expected = model((pixels / 255 - mean) / std).last_hidden_state.mean(1)
    assert torch.allclose(store[2]["features"], expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "num_views"), [("mean", 1), ("mean", 3), ("time_means", 1), ("time_means", 3)])
def test_parquet(model, folder, tmp_path, kind, num_views):
    settings = {"kind": kind, "num_views": num_views}
    write(model, folder, tmp_path / "parquet", file_format="parquet", **settings)
    write(model, folder, tmp_path / "store", **settings)
    store = FeatureStore(tmp_path / "store")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "parquet").glob("*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert list(rows[0]) == ["path", "label", *(["view"] if num_views > 1 else []), "features"]
    assert [row["path"] for row in rows[::num_views]] == list(store.paths)
    assert [row["label"] for row in rows[::num_views]] == store.labels.tolist()
    features = torch.tensor([row["features"] for row in rows]).unflatten(0, (-1, num_views))
    assert torch.equal(features, torch.stack([store[index]["features"] for index in range(5)]))
    assert summarise_features(tmp_path / "parquet")["broken"][0]["path"].endswith("3broken.mp4")
    assert summarise_features(tmp_path / "parquet")["num_videos"] == 5
    with pytest.raises(ShardError, match="holds .parquet files: read them with datasets"):
        FeatureStore(tmp_path / "parquet")


def test_clips_are_encoded_a_few_at_a_time(model):
    clips = torch.randint(0, 256, (2, 3, 2, 4, 3, 32, 32), dtype=torch.uint8)
    sizes = []

    def reduce(tokens):
        sizes.append(len(tokens))
        return tokens.mean(1)

    processor = VJEPAVideoProcessor(crop_size=32)
    with torch.no_grad():
        few = encode_in_batches(model, clips, clips_per_batch=5, reduce=reduce, processor=processor)
        one = encode_in_batches(model, clips[1:, 2:, 1:], clips_per_batch=1, reduce=reduce, processor=processor)
    assert sizes == [5, 5, 2, 1]
    assert few.shape == (2, 3, 2, WIDTH)
    assert torch.allclose(few[1, 2, 1], one[0, 0, 0], atol=1e-6)


def test_changed_weights_and_clips_are_noticed(model, folder, tmp_path):
    write(model, folder, tmp_path)
    write(model, folder, tmp_path, batch_size=7)  # changes nothing that counts
    torch.manual_seed(1)
    with pytest.raises(ShardError, match="weights changed"):
        write(VJEPAModel(VJEPAConfig(**TINY)), folder, tmp_path)
    corpus = SubsetCorpus(open_corpus(folder), range(4))
    with pytest.raises(ShardError, match=r"manifest changed .*num_items was 6 and is 4"):
        write(model, corpus, tmp_path)


def test_store_without_a_clip(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.mp4").write_bytes(b"noise")
    write(model, tmp_path / "in", tmp_path / "out")
    with pytest.raises(ShardError, match=r"no features of any clip; 1 are broken, such as .*x.mp4 \(CorruptVideo"):
        FeatureStore(tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "median"}, "`kind`='median' must be one of tokens, mean, time_means"),
        ({"dtype": "int8"}, "`dtype`='int8' must be one of float32, bfloat16, float16"),
        ({"file_format": "csv"}, "`file_format`='csv' must be one of safetensors, parquet"),
        ({"file_format": "parquet", "kind": "tokens"}, "Parquet holds pooled features in float32, not kind='tokens'"),
        ({"file_format": "parquet", "kind": "mean", "dtype": "float16"}, "not kind='mean' in float16"),
        ({"sampling": ClipSampling(num_frames=3)}, "num_frames=3 is not a multiple of the model's tubelet_size=2"),
    ],
)
def test_settings_that_are_refused(model, folder, tmp_path, settings, message):
    with pytest.raises(FeatureError, match=message):
        write(model, folder, tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_crops_of_another_size_are_refused(model, folder, tmp_path):
    geometry = ClipGeometry(crop_size=48, sampling=SAMPLING)
    with pytest.raises(FeatureError, match="crop_size=48 of the clips differs from the model's 32"):
        write_features(model, open_corpus(folder), tmp_path, geometry=geometry)
