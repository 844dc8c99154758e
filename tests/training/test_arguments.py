import pytest

from transformers_vjepa import VJEPAClassificationArguments, VJEPATrainingArguments

BOTH = pytest.mark.parametrize("kind", [VJEPATrainingArguments, VJEPAClassificationArguments])


@BOTH
def test_both_trainers_share_defaults_and_refuse_what_does_not_work(kind, tmp_path):
    arguments = kind(str(tmp_path), use_cpu=True)
    assert (arguments.logging_steps, arguments.save_total_limit, arguments.hub_license) == (10, 2, None)
    with pytest.raises(ValueError, match="logging_nan_inf_filter=True does not work with V-JEPA: leave it at False"):
        kind(str(tmp_path), use_cpu=True, logging_nan_inf_filter=True)


@BOTH
def test_clips_per_step(kind, tmp_path):
    sizes = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 4}
    assert kind(str(tmp_path), use_cpu=True, **sizes).clips_per_step == 12


def test_the_built_in_corpus_is_rendered_beside_the_output_folder(tmp_path, monkeypatch):
    rendered = []
    monkeypatch.setattr("transformers_vjepa.training.arguments.build_corpus", rendered.append)
    arguments = VJEPATrainingArguments(str(tmp_path / "run"), use_cpu=True)
    assert arguments.render_corpus() == tmp_path / "synthetic" and rendered == [tmp_path / "synthetic"]
