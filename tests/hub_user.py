"""
Actions of users of the Hub, each in a process of its own: `python hub_user.py NAME FOLDER`, where `HF_ENDPOINT` is the
Hub. The last line that an action prints is its result, as JSON.
"""

import json
import os
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "faults"))

NETWORK = """
    --preset vitt16 --crop_size 32 --patch_size 8 --frames_per_clip 4 --hidden_size 24 --num_hidden_layers 1
    --num_attention_heads 2 --pred_hidden_size 12 --pred_num_hidden_layers 1 --pred_num_attention_heads 2
""".split()
RUN = """
    --frame_step 2 --per_device_train_batch_size 2 --logging_steps 1 --save_steps 2 --max_steps 4 --use_cpu true
    --disable_tqdm true --report_to none
""".split()


def control(**faults):
    """Sets faults of the Hub. Returns the number of bytes that the Hub has received."""
    request = urllib.request.Request(f"{os.environ['HF_ENDPOINT']}/control", data=json.dumps(faults).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["uploaded_bytes"]


def exit_line(call, *args):
    """The error line with which a command ends."""
    try:
        call(*args)
    except SystemExit as error:
        return str(error.code)
    return "no error"


def outputs_of(folder, repository, *, revision="main", **trusting):
    """The outputs of everything that loads from a repository, for comparisons bit by bit."""
    import torch
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageClassification,
        AutoModelForPreTraining,
        AutoModelForVideoClassification,
        AutoVideoProcessor,
        pipeline,
    )

    settings = {"revision": revision, **trusting}
    config = AutoConfig.from_pretrained(repository, **settings)
    videos = AutoVideoProcessor.from_pretrained(repository, **settings)
    images = AutoImageProcessor.from_pretrained(repository, **settings)
    clip = videos(str(folder / "video.mp4"), do_sample_frames=True, return_tensors="pt")
    image = torch.arange(3 * 40 * 50).view(3, 40, 50).remainder(256).to(torch.uint8)
    image = images(image, return_tensors="pt")
    seen = {"config": config.model_type, "clip": clip["pixel_values_videos"], "image": image["pixel_values"]}
    with torch.no_grad():
        model = AutoModel.from_pretrained(repository, **settings).eval()
        seen["features"] = model(**clip).last_hidden_state
        seen["modules"] = [type(each).__module__ for each in (config, videos, images, model)]
        if "VJEPAForVideoClassification" in config.architectures:
            seen["logits"] = (
                AutoModelForVideoClassification.from_pretrained(repository, **settings).eval()(**clip).logits
            )
            seen["scores"] = (
                AutoModelForImageClassification.from_pretrained(repository, **settings).eval()(**image).logits
            )
            classify = pipeline("video-classification", model=repository, **settings)
            seen["pipeline"] = [sorted(entry.items()) for entry in classify(str(folder / "video.mp4"))]
        else:
            seen["pretraining"] = type(AutoModelForPreTraining.from_pretrained(repository, **settings)).__name__
    return {
        name: value.flatten().tolist() if isinstance(value, torch.Tensor) else value for name, value in seen.items()
    }


def push_objects(folder):
    """Pushes each kind of object, without and with a change, and saves to a local folder."""
    import torch
    from huggingface_hub import HfApi, ModelCard
    from reference import TINY
    from transformers import AutoModel

    import transformers_vjepa as vjepa

    torch.manual_seed(0)
    config = vjepa.VJEPAConfig(**TINY, num_labels=3)
    processors = vjepa.VJEPAVideoProcessor(crop_size=32, num_frames=4), vjepa.VJEPAImageProcessor(crop_size=32)
    models = {
        "me/pretraining": vjepa.VJEPAForPreTraining(config),
        "me/classifier": vjepa.VJEPAForVideoClassification(config),
        "me/private": vjepa.VJEPAForPreTraining(config),
    }
    config.push_to_hub("me/config")
    vjepa.VJEPAModel(config).push_to_hub("me/model", tags=["small"])
    for repository, model in models.items():
        control(store=int(repository == "me/pretraining"))  # the client tries again
        model.push_to_hub(repository, private=repository == "me/private")
        for processor in processors:
            processor.push_to_hub(repository)
    api, repositories = HfApi(), ["me/config", "me/model", *models]
    for repository in repositories:
        ModelCard.load(repository).validate()
    first = api.model_info("me/classifier").sha
    again = [models["me/classifier"].push_to_hub("me/classifier").oid, processors[0].push_to_hub("me/classifier").oid]
    seen = {"outputs": {repository: outputs_of(folder, repository) for repository in models}}
    with torch.no_grad():
        models["me/classifier"].classifier.bias += 1
    changed = models["me/classifier"].push_to_hub("me/classifier").oid
    model = AutoModel.from_pretrained("me/pretraining")
    model.save_pretrained(str(folder / "local"), push_to_hub=True, repo_id="me/saved")
    processors[0].save_pretrained(str(folder / "local"), push_to_hub=True, repo_id="me/saved")
    local = {file.name for file in (folder / "local").iterdir()}
    has_map = "auto_map" in (folder / "local" / "config.json").read_text()
    return {**seen, "first": first, "again": again, "changed": changed, "local": sorted(local), "has_map": has_map}


def pull(folder):
    """Downloads with the package; then tries private repositories."""
    from huggingface_hub.errors import HfHubHTTPError
    from small_runs import pretrain
    from transformers import AutoModel

    import transformers_vjepa  # noqa: F401
    from transformers_vjepa.commands import train_classifier

    first = (folder / "first").read_text()
    seen = {
        "pretraining": outputs_of(folder, "me/pretraining"),
        "old": outputs_of(folder, "me/classifier", revision=first),
        "new": outputs_of(folder, "me/classifier"),
        "lines": {},
    }
    for name, token in (("without", None), ("wrong", "hf_" + "nobodynobody"), ("other", os.environ["READER"])):
        os.environ.pop("HF_TOKEN", None)
        os.environ |= {} if token is None else {"HF_TOKEN": token}
        rest = [*RUN, "--dataset", str(folder / "videos"), "--output_dir", str(folder / f"refused-{name}")]
        command = [*NETWORK, *rest]
        seen["lines"][name] = exit_line(pretrain.run, ["--init_from", "me/private", *rest])
        seen["lines"][f"resume {name}"] = exit_line(pretrain.run, [*command, "--resume_from_checkpoint", "me/private"])
        seen["lines"][f"classify {name}"] = exit_line(
            train_classifier.run,
            ["--model", "me/private", "--dataset", str(folder / "videos"), "--output_dir", str(folder / "none")],
        )
        pushing = ["--push_to_hub", "true", "--hub_model_id", "me/new"]
        seen["lines"][f"push {name}"] = exit_line(pretrain.run, [*command, *pushing])
    os.environ["HF_TOKEN"] = os.environ["WRITER"]
    seen["private"] = outputs_of(folder, "me/private")
    try:
        AutoModel.from_pretrained("me/gated", token=os.environ["READER"])
    except (OSError, HfHubHTTPError) as error:
        seen["lines"]["gated"] = str(error)
    return seen


def offline(folder):
    """Loads from the cache of `pull`, without a Hub."""
    import transformers_vjepa  # noqa: F401

    return outputs_of(folder, "me/pretraining")


def without_package(folder):
    """Downloads without this package."""
    from importlib.util import find_spec

    from transformers import AutoConfig, AutoModel

    assert find_spec("transformers_vjepa") is None
    lines = []
    for auto in (AutoConfig, AutoModel):
        try:
            auto.from_pretrained("me/classifier", trust_remote_code=False)
        except ValueError as error:
            lines.append(str(error))
    first = (folder / "first").read_text()
    return {
        "lines": lines,
        "pretraining": outputs_of(folder, "me/pretraining", trust_remote_code=True),
        "classifier": outputs_of(folder, "me/classifier", revision=first, trust_remote_code=True),
    }


def train(folder):
    """Trains with each push strategy, resumes from the Hub, fails to push, and trains from pushed weights."""
    from importlib.util import find_spec

    from huggingface_hub import HfApi
    from small_runs import pretrain

    from transformers_vjepa.commands import publish, train_classifier
    from transformers_vjepa.pretraining import images as training_images

    token = os.environ.pop("HF_TOKEN")
    data = [*RUN, "--dataset", str(folder / "videos")]

    def run(name, *options):
        # Drawing images takes longer than these runs.
        training_images.find_spec = find_spec if name == "checkpoint" else lambda name: None
        return pretrain.run([*NETWORK, *data, "--output_dir", str(folder / name), *options])

    def pushing(name, strategy):
        options = ["--hub_model_id", f"me/{name}", "--hub_strategy", strategy, "--hub_always_push", "true"]
        return ["--push_to_hub", "true", "--hub_token", token, "--hub_private_repo", "true", *options]

    for strategy in ("end", "every_save", "checkpoint", "all_checkpoints"):
        run(strategy, *pushing(strategy, strategy), "--hub_license", "mit")
    os.environ["HF_TOKEN"] = token
    commits = {commit.title: commit.commit_id for commit in HfApi().list_repo_commits("me/checkpoint")}
    half = commits["Training in progress, step 2"]
    run("resumed", "--resume_from_checkpoint", f"me/checkpoint@{half}")
    run("finished", "--resume_from_checkpoint", "me/checkpoint")
    seen = {"lines": {"weights only": exit_line(run, "lost", "--resume_from_checkpoint", "me/end")}}
    # The connection breaks off at every commit of a run, and at the first push by hand.
    control(commit=3)
    run("broken", *pushing("broken", "checkpoint"))
    control(commit=1)
    command = [str(folder / "broken"), "me/broken", "--license", "apache-2.0"]
    seen["lines"]["publish"] = exit_line(publish.run, command)
    uploaded = control()
    publish.run(command)
    seen["sent again"] = control() - uploaded
    publish.run([*command, "--dry_run"])
    publish.run([*command, "--revision", "other", "--private"])
    # A chain of models: from non-commercial weights, through a folder, to a probe.
    started = ["--init_from", "me/bound", *data, "--output_dir", str(folder / "started")]
    seen["lines"]["licence"] = exit_line(pretrain.run, [*started, "--hub_license", "mit"])
    pretrain.run([*started, "--resume_from_checkpoint", "auto"])
    probe = "--max_steps 2 --per_device_train_batch_size 4 --logging_steps 1 --disable_tqdm true"
    train_classifier.run(
        ["--model", str(folder / "started"), "--dataset", str(folder / "videos"), *probe.split()]
        + ["--learning_rates", "0.001", "0.01"]
        + ["--output_dir", str(folder / "probe"), *pushing("probe", "checkpoint")]
    )
    return seen


def stock(folder):
    """Publishes an image model as a stock model of transformers, and uses it by its name on the Hub."""
    import torch
    from reference import TINY
    from transformers import AutoModel

    import transformers_vjepa as vjepa
    from transformers_vjepa.commands import convert_checkpoint
    from transformers_vjepa.hub.loading import load_processor, load_whole, read_config

    torch.manual_seed(0)
    image = {"frames_per_clip": 1, "tubelet_size": 1, "pred_num_mask_tokens": 1}
    ours = vjepa.VJEPAForPreTraining(vjepa.VJEPAConfig(**TINY | image))
    ours.save_pretrained(folder / "image")
    target = ["--output_dir", str(folder / "image-stock"), "--push_to_hub", "me/stock"]
    convert_checkpoint.run([str(folder / "image"), "--save_as", "ijepa", *target])
    convert_checkpoint.run(["me/stock", "--output_dir", str(folder / "image-back")])
    back = vjepa.VJEPAModel.from_pretrained(folder / "image-back", add_predictor=False)
    config = read_config("me/stock")
    loaded = load_whole(vjepa.VJEPAModel, "me/stock", remedy="", add_predictor=False)
    weights = [each.encoder.layer[1].mlp.fc2.weight for each in (ours.vjepa, back, loaded)]
    return {
        "model": type(AutoModel.from_pretrained("me/stock")).__name__,
        "equal": [torch.equal(weights[0], each) for each in weights[1:]],
        "crop": load_processor("me/stock", config).crop_size["height"],
        "base": (folder / "image-back" / "README.md").read_text(),
        "lines": {
            "ours": exit_line(convert_checkpoint.run, ["me/model", "--output_dir", str(folder / "none")]),
            "nothing": exit_line(convert_checkpoint.run, ["me/nothing", "--output_dir", str(folder / "none")]),
        },
    }


if __name__ == "__main__":
    part, where = sys.argv[1:]
    print("\n" + json.dumps(globals()[part](Path(where))))
