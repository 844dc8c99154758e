"""Cards: what they say, that the Hub would take them, and what they keep to themselves."""

import json
from dataclasses import dataclass, field

import pytest
from hub_server import card_errors
from huggingface_hub import ModelCard
from reference import TINY
from transformers import TrainerState

from transformers_vjepa import VJEPAConfig, VJEPAVideoProcessor
from transformers_vjepa.hub.model_card import (
    PICTURES,
    Heritage,
    RunDetails,
    card_of_folder,
    make_card,
    public_name,
    recipe_of,
    replace_placeholder_card,
    write_card,
)

TOKEN = "hf_" + "secretsecret"


@dataclass
class Arguments:
    dataset: list[str] = field(default_factory=lambda: ["synthetic"])
    crop_scale: list[float] = field(default_factory=lambda: [0.3, 1.0])
    max_steps: int = 10
    output_dir: str = "outputs"
    hub_token: str | None = None


@pytest.mark.parametrize(
    "name, shown",
    [
        ("/home/joe/videos/", "videos"),
        ("/home/joe/k710.csv=0.4", "k710.csv=0.4"),
        ("shards/a-{000..127}.tar", "a-{000..127}.tar"),
        ("user/name", "user/name"),
        ("user/name:config=0.5", "user/name:config=0.5"),
        ("https://user:word@host/0.tar?X-Signature=abc", "https://***@host/0.tar?***"),
        (f"/home/joe/{TOKEN}", "hf_***"),
        ("a\nb", "a\\nb"),
        ("/", "data"),
    ],
)
def test_names_without_folders_and_secrets(name, shown):
    assert public_name(name) == shown


def test_a_recipe_has_what_differs():
    arguments = Arguments(dataset=["/home/joe/videos"], max_steps=3, output_dir="/home/joe/out", hub_token=TOKEN)
    assert recipe_of([arguments]) == "dataset:\n- videos\nmax_steps: 3"
    assert recipe_of([Arguments()]) == ""


def test_the_card_of_a_training(tmp_path):
    for path in ("pictures/curves.png", "test/confusion.png"):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_bytes(b"png")
    scores = {"accuracy": 0.625, "accuracy_interval": [0.5, 0.75], "num_videos": 60, "num_broken": 1}
    results = {"test": scores, "chance": 0.25, "chosen": {"step": 4, "steps": 4}, "settings": {"num_segments": 2}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    state = TrainerState(global_step=4, max_steps=4, log_history=[{"loss": 0.5}, {"loss": 0.25}])
    details = RunDetails(
        command="vjepa train_classifier",
        sources=["user/clips=0.5", "/home/joe/clips|`x`"],
        arguments=[Arguments(max_steps=4)],
        heritage=Heritage(("user/base",), "cc-by-nc-4.0"),
        start="/home/joe/base",
    )
    card = make_card(
        tmp_path,
        VJEPAConfig(**TINY, num_labels=3),
        architecture="VJEPAForVideoClassification",
        model_id="me/probe",
        details=details,
        state=state,
        clips_per_step=32,
    )
    write_card(card, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert card_errors(text) == [] and "/home" not in text and str(tmp_path) not in text
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.base_model, data.datasets) == ("cc-by-nc-4.0", ["user/base"], ["user/clips"])
    (result,) = data.eval_results
    assert (result.metric_value, result.dataset_split, result.dataset_type) == (0.625, "test", "user/clips")
    for line in (
        "| test | 62.5 % | 50.0 to 75.0 | 60 | 25.0 % |",
        "| clips seen | 128 |",
        "| loss, first and last logged | 0.5000, 0.2500 |",
        "| started from | `base` |",
        "- `clips\\|'x'`",
        f"![{PICTURES['test/confusion.png']}](test/confusion.png)",
        "2 clips of each video",
    ):
        assert line in text
    assert "masks.png" not in text


def test_a_licence_is_named_only_where_one_is_known(tmp_path):
    VJEPAConfig(**TINY).save_pretrained(tmp_path)
    card = card_of_folder(tmp_path, model_id="me/name")
    assert "license" not in card.data.to_dict() and "has named none" in card.text
    write_card(card, tmp_path)
    card = card_of_folder(tmp_path, model_id="me/other", license="mit")
    assert (
        card.data.license == "mit"
        and "\nThe weights are under mit. The code" in card.text
        and "has named none" not in card.text
    )
    write_card(card_of_folder(tmp_path, license="cc-by-nc-4.0"), tmp_path)
    with pytest.raises(ValueError, match="licence 'mit' for weights that come from others under cc-by-nc-4.0"):
        card_of_folder(tmp_path, license="mit")
    with pytest.raises(ValueError, match="leave it out"):
        RunDetails(heritage=Heritage(license="cc-by-nc-4.0"), license="apache-2.0")


def test_a_card_that_somebody_wrote_stays(tmp_path):
    VJEPAVideoProcessor().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\ntags:\n- mine\n---\n[More Information Needed]\n")
    replace_placeholder_card(tmp_path, repo_id="me/name")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["vjepa", "video", "mine"] and "Processors of V-JEPA clips" in card.text
    (tmp_path / "README.md").write_text("# By hand\n")
    replace_placeholder_card(tmp_path, repo_id="me/name")
    assert (tmp_path / "README.md").read_text() == "# By hand\n"


def test_pictures_have_a_card_of_their_kind(tmp_path):
    config = VJEPAConfig(**TINY | {"frames_per_clip": 1, "tubelet_size": 1})
    card = make_card(tmp_path, config, architecture="VJEPAForPreTraining")
    assert card.data.pipeline_tag == "image-feature-extraction" and "AutoImageProcessor" in card.text
    assert "learnt from pictures" in card.text
    scores = {"accuracy": 1.0, "accuracy_interval": [0.9, 1.0], "num_videos": 9, "num_broken": 0}
    (tmp_path / "results.json").write_text(json.dumps({"test": scores, "chance": 0.5}))
    card = make_card(tmp_path, config, architecture="VJEPAForVideoClassification", model_id="me/probe")
    assert (card.data.pipeline_tag, card.data.eval_results[0].task_type) == ("image-classification",) * 2
    usage = """
from transformers import pipeline

classify = pipeline("image-classification", model="me/probe", trust_remote_code=True)
best = classify("picture.jpg", top_k=5)
```
"""
    assert usage in card.text and "A classifier of pictures on" in card.text and "video-class" not in card.text


def test_a_card_for_another_repository_keeps_what_somebody_wrote(tmp_path):
    card = make_card(tmp_path, VJEPAConfig(), architecture="VJEPAModel", model_id="me/name")
    card.text += '\nIt began as AutoModel.from_pretrained("other/base").\n'
    write_card(card, tmp_path)
    text = card_of_folder(tmp_path, model_id="me/copy").text
    assert 'from_pretrained("me/copy", trust' in text and '"me/name"' not in text
    assert text.lstrip().startswith("# copy\n") and 'from_pretrained("other/base")' in text
    (tmp_path / "README.md").write_text(text.replace("# copy", "# My own title", 1))
    assert card_of_folder(tmp_path, model_id="me/third").text.lstrip().startswith("# My own title\n")
