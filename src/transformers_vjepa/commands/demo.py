"""
V-JEPA in minutes: render the built-in corpus, pretrain on it without labels, and compare what the frozen features
know about motion and appearance with the features of an untrained encoder. The same command resumes a stopped demo.

    vjepa demo                       # five to ten minutes on two CPU cores
    vjepa demo --max_steps 50        # any argument of vjepa pretrain, except --dataset

The defaults are those of the recipe tiny_cpu, except --output_dir outputs/demo, --seed 0 and --resume_from_checkpoint
auto; checkpoints are kept for vjepa study. vjepa pretrain --help lists all arguments.
"""

import sys
from pathlib import Path

import torch
from transformers import set_seed

from ..analysis.read_outs import encode_clips, labelled_subset, read_out
from ..command_line.parsing import MISTAKES, names_given, user_errors
from ..data.synthetic import synthetic_root
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..pretraining.arguments import parse_arguments
from ..pretraining.setup import FAULTS, build_model
from ..pretraining.setup import run as run_pretraining
from ..safety.sanitizing import json_text
from ..study.plan import SAVE_SHARE, StudyClips, built_in_clips
from .dry_run import describe_pretraining

READ_OUTS = ("ridge", "attentive")
LABELS = 200


def accuracies(model: VJEPAModel, clips: StudyClips, *, seed: int) -> dict[str, dict[str, float]]:
    """Accuracy on the test clips in percent, by task and read-out; read-outs are fitted to `LABELS` training clips."""
    features = {split: encode_clips(model, pixels) for split, pixels in clips.clips.items()}
    found = {}
    for task, parts in clips.labels.items():
        labels = {split: values.numpy() for split, values in parts.items()}
        chosen = labelled_subset(labels["train"], count=LABELS, seed=seed)
        known = features["train"][torch.from_numpy(chosen)], labels["train"][chosen]
        asked = features["test"], labels["test"]
        found[task] = {kind: 100 * float(read_out(kind, *known, *asked, seed=seed).mean()) for kind in READ_OUTS}
    return found


def show(results: dict[str, dict[str, dict[str, float]]], clips: StudyClips) -> None:
    """Prints the table of accuracies."""
    number = len(clips.clips["test"])
    # Half the width of a 95 % interval at an accuracy of 50 %, where it is widest.
    margin = 196 * (0.25 / number) ** 0.5
    print(
        f"\nWhat frozen features know, read off {LABELS} labelled clips: "
        f"accuracy in % on {number} others (+-{margin:.1f})\n"
    )
    print(f"{'':12}{'read-out':>12}{'chance':>9}{'untrained':>12}{'V-JEPA':>9}")
    for task, names in clips.classes.items():
        for kind in READ_OUTS:
            untrained, trained = (results[name][task][kind] for name in ("untrained", "pretrained"))
            print(f"{task:12}{kind:>12}{100 / len(names):9.1f}{untrained:12.1f}{trained:9.1f}")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: vjepa demo [arguments of vjepa pretrain]\n{__doc__.rstrip()}")
        sys.exit(0)
    defaults = ["--config", "tiny_cpu", "--output_dir", "outputs/demo", "--resume_from_checkpoint", "auto"]
    # The settings of a study, so that vjepa study can use this run.
    defaults += ["--seed", "0", "--save_steps", str(SAVE_SHARE), "--save_total_limit", "100"]
    argv = defaults + sys.argv[1:]
    if "dataset" in names_given(sys.argv):
        sys.exit("error: the demo needs the labels of its own corpus: use vjepa pretrain for --dataset")
    if "dry_run" in names_given(argv):
        with user_errors(*MISTAKES, *FAULTS):
            print(describe_pretraining(argv))
        return
    trainer = run_pretraining(argv)
    if trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)
    model, data, training = parse_arguments(argv)
    output_dir, root = Path(training.output_dir), synthetic_root(training.output_dir)
    pretrained = VJEPAModel.from_pretrained(output_dir)
    set_seed(training.seed)
    # With the seed of the run, the new network is the one from which pretraining started.
    models = {"untrained": build_model(model, training).vjepa, "pretrained": pretrained}
    sampling = data.clip_sampling(pretrained.config.frames_per_clip)
    clips = built_in_clips(root, crop_size=pretrained.config.crop_size, sampling=sampling)
    print("\nmeasuring what the features know: probes on both networks, a minute or more ...", flush=True)
    results = {name: accuracies(network, clips, seed=training.seed) for name, network in models.items()}
    (output_dir / "readout.json").write_text(json_text(results))
    show(results, clips)
    print(f"\ncheckpoint: {output_dir}\npictures:   {output_dir / 'pictures'}\ncorpus:     {root}")
