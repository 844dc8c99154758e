"""Image models as stock models of transformers and back, bit by bit; models that do not fit are refused."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from reference import TINY, largest_difference
from safetensors.torch import load_file, save_file
from stock_models import STOCK, stock_folder_of
from transformers import AutoImageProcessor, IJepaConfig, IJepaForImageClassification, IJepaModel, ViTImageProcessor

from transformers_vjepa import (
    VJEPAConfig,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAImageProcessor,
    VJEPAModel,
    VJEPAVideoProcessor,
)
from transformers_vjepa.conversion import ijepa
from transformers_vjepa.conversion.checks import differing_tensors
from transformers_vjepa.conversion.conversion import build_model, read_folder
from transformers_vjepa.conversion.ijepa import (
    check_stock_folder,
    config_of_stock,
    encoder_and_head,
    is_stock_folder,
    load_stock_folder,
    normalisation_of_stock,
    read_stock_folder,
    save_stock_folder,
    stock_config,
    stock_processor,
)
from transformers_vjepa.safety.safe_loading import CheckpointError

IMAGE = TINY | {"frames_per_clip": 1, "tubelet_size": 1, "pred_num_mask_tokens": 1}
CONFIG = VJEPAConfig(**IMAGE)
PROCESSOR = VJEPAVideoProcessor.for_config(CONFIG)


def random_model(model_class, config=CONFIG, **settings):
    torch.manual_seed(0)
    model = model_class(config, **settings)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    return model.eval()


def written(model, folder, config=CONFIG, processor=PROCESSOR):
    """The folder of the stock model, after the check of the package."""
    model.save_pretrained(folder / "ours")
    weights = read_folder(folder / "ours")[1]
    save_stock_folder(weights, config, folder / "stock", processor=processor)
    differences = check_stock_folder(folder / "stock", weights, config)
    assert max(differences.values()) <= 1e-5
    return folder / "stock"


@pytest.mark.parametrize("model_class", [VJEPAModel, VJEPAForPreTraining])
def test_the_target_encoder_becomes_a_stock_model(tmp_path, model_class):
    model = random_model(model_class)
    stock = load_stock_folder(written(model, tmp_path))
    assert type(stock) is IJepaModel and (tmp_path / "stock" / "model.safetensors").is_file()
    assert stock.config.layer_norm_eps == 1e-6 and stock.config.intermediate_size == 192
    images = torch.randn(2, 3, 32, 32)
    ours = getattr(model, "vjepa", model)
    with torch.no_grad():
        assert largest_difference(stock(images).last_hidden_state, ours.get_vision_features(images)) < 1e-5


def test_a_classifier_becomes_a_stock_classifier(tmp_path):
    config = VJEPAConfig(**IMAGE, pooling="mean", id2label={0: "cat", 1: "dog", 2: "owl"})
    model = random_model(VJEPAForVideoClassification, config)
    stock = load_stock_folder(written(model, tmp_path, config))
    assert type(stock) is IJepaForImageClassification
    assert stock.config.id2label == {0: "cat", 1: "dog", 2: "owl"} and stock.config.label2id["owl"] == 2
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert largest_difference(stock(images).logits, model(images).logits) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [{}, {"mlp_ratio": 48 / 11, "qkv_bias": False}, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "in_chans": 1}],
)
def test_ours_to_stock_and_back_is_bit_equal(tmp_path, changes):
    config = VJEPAConfig(**IMAGE | changes)
    model = random_model(VJEPAForPreTraining, config)
    again = read_stock_folder(written(model, tmp_path, config))
    kept, left_out = encoder_and_head(model.state_dict())
    assert left_out == ["context encoder", "predictor"]
    assert differing_tensors(again.weights, kept) == [] and len(kept) == len(model.vjepa.encoder.state_dict())
    fields = (
        "patch_size crop_size frames_per_clip tubelet_size hidden_size in_chans num_attention_heads num_hidden_layers "
        "layer_norm_eps qkv_bias hidden_act grid_size"
    )
    assert all(getattr(again.config, name) == getattr(config, name) for name in fields.split())
    assert again.config.pooling == "mean" and again.config.pred_num_mask_tokens == 1


def test_half_precision_stays(tmp_path):
    folder = written(random_model(VJEPAModel).bfloat16(), tmp_path)
    stored = load_file(folder / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert IJepaModel.from_pretrained(folder).dtype == torch.bfloat16


def test_shards_of_an_earlier_model_are_removed(tmp_path):
    folder = tmp_path / "stock"
    IJepaModel(IJepaConfig(**STOCK)).save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    written(random_model(VJEPAModel), tmp_path)
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("settings", [{}, {"max_shard_size": "50KB"}, {"save_original_format": False}])
def test_a_stock_model_becomes_ours(tmp_path, settings):
    stock = stock_folder_of(tmp_path / "stock")
    stock.save_pretrained(tmp_path / "again", **settings)
    found = read_stock_folder(tmp_path / "again")
    config = found.config
    assert found.dropped == ["position embeddings (computed)"] and config.is_image_model
    assert (config.hidden_act, config.layer_norm_eps, config.qkv_bias, config.crop_size) == (
        "gelu_new",
        1e-5,
        False,
        32,
    )
    assert int(config.hidden_size * config.mlp_ratio) == 200 and config.pred_num_attention_heads == 4
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours = build_model(found.weights, config).get_vision_features(images)
        assert largest_difference(ours, stock(images).last_hidden_state) < 1e-5


def test_what_stock_models_have_beyond_ours_is_named(tmp_path):
    stock_folder_of(tmp_path, settings={"add_pooling_layer": True, "use_mask_token": True}, hidden_dropout_prob=0.1)
    assert read_stock_folder(tmp_path).dropped == [
        "position embeddings (computed)",
        "pooler (not part of I-JEPA)",
        "mask token of the encoder (not part of I-JEPA)",
        "hidden_dropout_prob=0.1 (our blocks have no such dropout)",
    ]


def test_the_predictor_of_a_published_architecture_is_that_of_its_preset():
    sizes = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
    config = config_of_stock(IJepaConfig(**sizes, patch_size=14, layer_norm_eps=1e-6))
    preset = VJEPAConfig.from_preset("ijepa-vith14")
    assert config.to_diff_dict() | {"pooling": None} == preset.to_diff_dict() | {"pooling": None}
    giant = sizes | {"hidden_size": 1408, "num_hidden_layers": 40, "intermediate_size": 6144}
    config = config_of_stock(IJepaConfig(**giant, layer_norm_eps=1e-6))
    assert (config.pred_num_hidden_layers, config.mlp_ratio) == (16, 48 / 11)
    # 20 heads do not divide the width 384 of the predictor.
    assert (
        config_of_stock(IJepaConfig(**(STOCK | {"hidden_size": 80, "num_attention_heads": 20}))).pred_hidden_size
        == 384
    )


@pytest.mark.parametrize(
    "fields, is_classifier, message",
    [
        (
            {"frames_per_clip": 4, "tubelet_size": 2},
            False,
            "frames_per_clip=4: a stock I-JEPA model takes single images",
        ),
        ({"pooling": "attentive"}, True, "pooling='attentive': .* Train the classifier with --pooling mean"),
        (
            {"pooling": "mean", "num_pooled_layers": 2},
            True,
            "num_pooled_layers=2: .* Train the .* --num_pooled_layers 1,",
        ),
        (
            {"pooling": "mean", "pooled_batch_norm": True},
            True,
            "pooled_batch_norm=True: .* --pooled_batch_norm false,",
        ),
    ],
)
def test_models_that_a_stock_model_cannot_express_are_refused(fields, is_classifier, message):
    with pytest.raises(CheckpointError, match=message):
        stock_config(VJEPAConfig(**IMAGE | fields), is_classifier=is_classifier)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"image_size": (32, 64)}, r"image_size=\(32, 64\) is not a square: our models take square images"),
        ({"hidden_act": "sigma"}, "hidden_act='sigma' is not an activation of transformers"),
        ({"num_attention_heads": 5}, "`hidden_size`=48 is not a multiple of `num_attention_heads`=5"),
        ({"num_hidden_layers": 100_000}, "asks for 1e.05 blocks, more than"),
    ],
)
def test_stock_models_that_ours_cannot_express_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        config_of_stock(IJepaConfig(**STOCK | fields))


def test_trained_positions_are_refused(tmp_path):
    stock_folder_of(tmp_path, positions=False)
    with pytest.raises(
        CheckpointError, match=r"the position embeddings differ by .* \(allowed 1e-04\).* were trained"
    ):
        read_stock_folder(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    stock_folder_of(tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    lost = {name: value for name, value in stored.items() if name != "encoder.layer.1.output.dense.bias"}
    save_file(lost | {"cls_token": torch.zeros(1)}, file)
    message = "stock I-JEPA model; unknown: cls_token; missing: encoder.layer.1.output.dense.bias"
    with pytest.raises(CheckpointError, match=message):
        read_stock_folder(tmp_path)
    save_file({**stored, "layernorm.bias": torch.zeros(47)}, file)
    with pytest.raises(CheckpointError, match=r"encoder.layernorm.bias has shape \(47,\), expected \(48,\)"):
        read_stock_folder(tmp_path)
    save_file({**stored, "embeddings.position_embeddings": torch.zeros(1, 9, 48)}, file)
    with pytest.raises(CheckpointError, match=r"shape \(1, 9, 48\), the configuration \(1, 16, 48\)"):
        read_stock_folder(tmp_path)
    save_file({"layernorm.bias": torch.zeros(48)}, file)
    with pytest.raises(CheckpointError, match="no embeddings.position_embeddings"):
        read_stock_folder(tmp_path)
    file.unlink()
    torch.save(stored, tmp_path / "pytorch_model.bin")  # never read: it is a pickle
    with pytest.raises(CheckpointError, match="it has no config.json or no model.safetensors"):
        read_stock_folder(tmp_path)


def test_a_folder_that_was_changed_does_not_pass_the_check(tmp_path, monkeypatch):
    model = random_model(VJEPAModel)
    folder = written(model, tmp_path)
    weights = read_folder(tmp_path / "ours")[1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(
        CheckpointError, match=r"computes other outputs than ours \(allowed 1e-05 of the largest value"
    ):
        check_stock_folder(folder, weights, CONFIG)
    stored = load_file(folder / "model.safetensors")
    save_file(stored | {"layernorm.bias": torch.zeros(48)}, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match="differs from the source in vjepa.encoder.layernorm.bias: do not use it"
    ):
        check_stock_folder(folder, weights, CONFIG)
    with pytest.raises(CheckpointError, match=r"no weights for vjepa.encoder.layernorm.bias \(1 missing\)"):
        ijepa.stock_weights({name: value for name, value in weights.items() if not name.endswith("rm.bias")}, CONFIG)


def test_folders_of_other_models_are_not_stock(tmp_path):
    assert not is_stock_folder(tmp_path)
    VJEPAConfig(**TINY).save_pretrained(tmp_path)
    assert not is_stock_folder(tmp_path)
    (tmp_path / "config.json").write_text("[1")
    assert not is_stock_folder(tmp_path)
    IJepaConfig(**STOCK).save_pretrained(tmp_path)
    assert is_stock_folder(tmp_path)


# Pixels


def test_the_stock_processor_crops_and_normalises_as_ours(shared):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    config = VJEPAConfig.from_preset("ijepa-vith14")
    processor = VJEPAVideoProcessor(crop_size=224, image_mean=mean, image_std=std)
    stock = stock_processor(processor, config)
    ours = VJEPAImageProcessor(crop_size=224, image_mean=mean, image_std=std)
    files = sorted((shared / "data" / "sign_digits").glob("*/*.JPG"))[::80]
    for file in files:  # enlarged, from 100 x 100 pixels
        image = Image.open(file).convert("RGB")
        theirs = stock(image, return_tensors="pt")["pixel_values"]
        assert largest_difference(theirs, ours(image, return_tensors="pt")["pixel_values"]) < 1e-4
    # Reduced images differ, because only the stock processor smooths them: by less than a grey level on average.
    image = Image.open(files[0]).convert("RGB").resize((320, 420))
    theirs = stock(image, return_tensors="pt")["pixel_values"]
    difference = theirs - ours(image, return_tensors="pt")["pixel_values"]
    assert theirs.shape == (1, 3, 224, 224) and difference.abs().mean() < 1 / 255 / 0.2


def test_normalisation_of_stock_folders(tmp_path):
    imagenet = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    IJepaConfig(**STOCK, architectures=["IJepaModel"]).save_pretrained(tmp_path)
    assert normalisation_of_stock(tmp_path) == imagenet
    ViTImageProcessor().save_pretrained(tmp_path)
    assert normalisation_of_stock(tmp_path) == imagenet
    # The head of a classifier was trained with the pixels of its processor.
    IJepaConfig(**STOCK, architectures=["IJepaForImageClassification"]).save_pretrained(tmp_path)
    assert normalisation_of_stock(tmp_path) == {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    assert normalisation_of_stock(tmp_path)["image_mean"] == [0.1, 0.2, 0.3]


# Without this package

WITHOUT_THE_PACKAGE = """
import sys
sys.modules["transformers_vjepa"] = None  # an import raises ImportError
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
image, encoder, classifier = Image.open("image.png"), "encoder/stock", "classifier/stock"
pixels = AutoImageProcessor.from_pretrained(encoder)(image, return_tensors="pt")
features = AutoModel.from_pretrained(encoder)(**pixels).last_hidden_state
piped = pipeline("image-feature-extraction", model=encoder)(image, return_tensors=True)
logits = AutoModelForImageClassification.from_pretrained(classifier)(**pixels).logits
best = pipeline("image-classification", model=classifier)("image.png", top_k=1)
found = {"features": features, "piped": piped, "logits": logits, **pixels}
save_file({name: value.detach().contiguous() for name, value in found.items()}, "found.safetensors")
print(best[0]["label"])
"""


def test_stock_folders_work_without_this_package(tmp_path):
    encoder = random_model(VJEPAForPreTraining)
    config = VJEPAConfig(**IMAGE, pooling="mean", id2label={0: "cat", 1: "dog", 2: "owl"})
    classifier = random_model(VJEPAForVideoClassification, config)
    written(encoder, tmp_path / "encoder")
    written(classifier, tmp_path / "classifier", config)
    values = torch.randint(0, 256, (28, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(values.numpy()).save(tmp_path / "image.png")
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    found = load_file(tmp_path / "found.safetensors")
    images = AutoImageProcessor.from_pretrained(tmp_path / "encoder" / "stock")(
        Image.open(tmp_path / "image.png"), return_tensors="pt"
    )
    with torch.no_grad():
        features = encoder.vjepa.get_vision_features(images["pixel_values"])
        logits = classifier(images["pixel_values"]).logits
    assert largest_difference(found["features"], features) < 1e-5
    assert largest_difference(found["piped"], features) < 1e-5
    assert largest_difference(found["logits"], logits) < 1e-5
    assert ended.stdout.split() == [config.id2label[logits.argmax().item()]]
