"""Pixels as the target of prediction: the loss by hand, and checkpoints that load like any other."""

import pytest
import torch
from reference import TINY
from transformers import AutoModel

from transformers_vjepa import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from transformers_vjepa.commands import pretrain
from transformers_vjepa.data.synthetic import CorpusConfig, build_corpus
from transformers_vjepa.pretraining.masking import sample_masks
from transformers_vjepa.pretraining.pixel_prediction import VJEPAForPixelPrediction, normalised_patches


def tiny_model():
    torch.manual_seed(0)
    return VJEPAForPixelPrediction(VJEPAConfig(**TINY))


def a_batch(config, batch=2):
    shape = (batch, config.frames_per_clip, config.in_chans, config.crop_size, config.crop_size)
    generator = torch.Generator().manual_seed(1)
    masks = sample_masks(config, "multiblock", batch_size=batch, generator=generator)
    return torch.randn(shape, generator=generator), masks.context_mask, masks.target_mask


def test_every_patch_has_its_own_mean_and_deviation():
    # Deviations from the means 2 and 5: -1, 1 with the unbiased variance 2, and 0.
    found = normalised_patches(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    assert torch.allclose(found, torch.tensor([[[-(0.5**0.5), 0.5**0.5], [0.0, 0.0]]]), atol=1e-6)


def test_loss_by_hand():
    config = VJEPAConfig(
        **(TINY | {"in_chans": 1, "tubelet_size": 1, "patch_size": 2, "crop_size": 4, "frames_per_clip": 2})
    )
    model = VJEPAForPixelPrediction(config)
    with torch.no_grad():
        model.vjepa.predictor.pixels.weight.zero_()
        model.vjepa.predictor.pixels.bias.fill_(0.5)
    clip = torch.zeros(1, 2, 1, 4, 4)
    clip[0, 0, 0, 1, 1] = 2.0  # token 0 is 0, 0, 0, 2: mean 1/2, variance 1, so -1/2, -1/2, -1/2, 3/2
    context = [torch.tensor([[4, 5]]), torch.tensor([[6, 7]])]
    output = model(clip, context, [torch.tensor([[0]]), torch.tensor([[1, 2]])])
    assert torch.allclose(output.targets[0], torch.tensor([[[-0.5, -0.5, -0.5, 1.5]]]), atol=1e-5)
    # Predictions are 1/2 everywhere: errors of 1 in token 0 and of 1/4 in the flat patches; the mean of both masks.
    assert output.loss.item() == pytest.approx((1 + 0.25) / 2, abs=1e-5)
    assert output.prediction_loss is output.loss


def test_training_asks_nothing_of_the_target_encoder():
    model = tiny_model()
    clips, context, target = a_batch(model.config)
    model.vjepa.encoder.forward = None  # would fail when called
    output = model(clips, context, target)
    assert output.target_hidden_state is None
    output.loss.backward()
    assert all(value.grad is None for value in model.vjepa.encoder.parameters())
    trained = [*model.context_encoder.parameters(), *model.vjepa.predictor.parameters()]
    assert all(value.grad is not None for value in trained)


def test_features_come_where_no_gradients_are():
    model = tiny_model().eval()
    clips, context, target = a_batch(model.config)
    with torch.no_grad():
        output = model(clips, context, target)
        assert torch.equal(output.target_hidden_state, model.vjepa.get_vision_features(clips))
    assert [part.shape for part in output.predictions] == [part.shape for part in output.targets]
    assert output.predictions[0].shape[-1] == 3 * 2 * 8 * 8


def test_it_has_no_features_to_be_surprised_by():
    model = tiny_model()
    with pytest.raises(ValueError, match="this model predicts pixels, and surprise compares features: use a VJEPA"):
        model.surprise(a_batch(model.config)[0])


def test_checkpoints_give_the_target_encoder(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for value in model.context_encoder.parameters():
            value.add_(1.0)
    model.update_target(0.75)
    model.save_pretrained(tmp_path)
    expected = model.vjepa.encoder.state_dict()
    for loader in (VJEPAModel, AutoModel, VJEPAForVideoClassification, VJEPAForPixelPrediction):
        loaded, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["unexpected_keys"] and not info["mismatched_keys"]
        assert {name.split(".")[0] for name in info["missing_keys"]} <= {"pooler", "classifier"}
        encoder = loaded.encoder if hasattr(loaded, "encoder") else loaded.vjepa.encoder
        assert all(torch.equal(value, expected[name]) for name, value in encoder.state_dict().items())
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in loaded.vjepa.encoder.parameters())


def test_a_model_of_features_gets_a_new_last_layer(tmp_path):
    torch.manual_seed(0)
    VJEPAForPreTraining(VJEPAConfig(**TINY)).save_pretrained(tmp_path)
    loaded, info = VJEPAForPixelPrediction.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == {"vjepa.predictor.pixels.weight", "vjepa.predictor.pixels.bias"}
    assert loaded.vjepa.predictor.pixels.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_script_trains_on_pixels(tmp_path, capsys):
    corpus = build_corpus(
        tmp_path / "synthetic", config=CorpusConfig(num_train=8, num_test=1, size=32, num_frames=10), num_processes=1
    )
    argv = f"""
        --preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --frame_step 2 --hidden_size 24
        --num_hidden_layers 1 --num_attention_heads 2 --pred_hidden_size 12 --pred_num_hidden_layers 1
        --pred_num_attention_heads 2 --per_device_train_batch_size 4 --logging_steps 1 --max_steps 2
        --dataset {corpus / "train"} --output_dir {tmp_path / "run"} --prediction_target pixels
        --resume_from_checkpoint auto
    """.split()
    trainer = pretrain.run(argv)
    assert isinstance(trainer.model, VJEPAForPixelPrediction)
    first = [entry for entry in trainer.state.log_history if "loss" in entry][0]
    # Predictions start near 0, and normalised pixels have the variance 1 (times 383/384), or 0 where a patch is flat.
    assert 0.5 < first["loss"] < 1.1
    assert first["target_rank_over_clips"] > 1 and 0 < first["predictor_grad_norm"]
    assert (tmp_path / "run" / "pictures" / "features.png").is_file()
    capsys.readouterr()
    again = pretrain.run(argv)
    assert "nothing left to train" in capsys.readouterr().out
    assert isinstance(again.model, VJEPAForPixelPrediction)
