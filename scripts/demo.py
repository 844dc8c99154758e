#!/usr/bin/env python
"""
V-JEPA in minutes: render the built-in corpus, pretrain on it without labels, and show what the frozen features
know about motion and appearance beside those of an untrained encoder. Run again, it goes on where it stopped.

    python scripts/demo.py                       # about 10 minutes on two CPU cores
    python scripts/demo.py --max_steps 50        # any argument of pretrain.py but --dataset
"""

import json
import sys
from pathlib import Path

import pretrain
import torch
from transformers import set_seed

from transformers_vjepa import ClipSampling, VJEPAModel, VJEPAVideoProcessor
from transformers_vjepa.command_line import names_given
from transformers_vjepa.probing import extract_time_means, fit_read_out
from transformers_vjepa.synthetic import APPEARANCES, MOTIONS, load_labels

RECIPE = Path(__file__).parent / "recipes" / "tiny_cpu.yaml"
CLASSES = {"motion": MOTIONS, "appearance": APPEARANCES}
READ_OUTS = ("neighbours", "ridge")


def read_out(model: VJEPAModel, root: Path, *, sampling: ClipSampling) -> dict[str, dict[str, float]]:
    """Accuracy on the test clips, in percent, of read-outs that know the labels of the training clips."""
    features, labels = {}, {}
    processor = VJEPAVideoProcessor(crop_size=model.config.crop_size)
    for split in ("train", "test"):
        records = {record.path.name: record for record in load_labels(root, split=split)}
        source = str(root / split)
        features[split], paths = extract_time_means(model, source, sampling=sampling, processor=processor)
        found = [records[Path(path).name] for path in paths]
        labels[split] = {
            task: torch.tensor([names.index(getattr(record, task)) for record in found])
            for task, names in CLASSES.items()
        }
    accuracy = {}
    for task in CLASSES:
        fitted = {kind: fit_read_out(kind, features["train"], labels["train"][task]) for kind in READ_OUTS}
        truth = labels["test"][task].numpy()
        accuracy[task] = {
            kind: 100 * float((classifier.predict(features["test"].numpy()) == truth).mean())
            for kind, classifier in fitted.items()
        }
    return accuracy


def show(results: dict[str, dict[str, dict[str, float]]], root: Path) -> None:
    counts = {split: len(load_labels(root, split=split)) for split in ("train", "test")}
    # Half the width of a 95 % interval at 50 %, the widest.
    margin = 196 * (0.25 / counts["test"]) ** 0.5
    print(
        f"\nWhat frozen features know, read off {counts['train']} labelled clips: "
        f"accuracy in % on {counts['test']} others (+-{margin:.1f})\n"
    )
    print(f"{'':12}{'read-out':>12}{'chance':>9}{'untrained':>12}{'V-JEPA':>9}")
    for task, names in CLASSES.items():
        for kind in READ_OUTS:
            untrained, trained = (results[name][task][kind] for name in ("untrained", "pretrained"))
            print(f"{task:12}{kind:>12}{100 / len(names):9.1f}{untrained:12.1f}{trained:9.1f}")


def main() -> None:
    defaults = ["--config", str(RECIPE), "--output_dir", "outputs/demo", "--resume_from_checkpoint", "auto"]
    argv = defaults + sys.argv[1:]
    if "dataset" in names_given(sys.argv):
        sys.exit("error: the demo reads motion and appearance off its own corpus: use pretrain.py for --dataset")
    trainer = pretrain.run(argv)
    if trainer.stop_signal:
        sys.exit(128 + trainer.stop_signal)
    _, data, training = pretrain.parse_arguments(argv)
    output_dir = Path(training.output_dir)
    root = pretrain.synthetic_root(training.output_dir)
    pretrained = VJEPAModel.from_pretrained(output_dir)
    set_seed(training.seed)
    models = {"untrained": VJEPAModel(pretrained.config), "pretrained": pretrained}
    sampling = pretrain.clip_sampling(data, pretrained.config)
    results = {name: read_out(model, root, sampling=sampling) for name, model in models.items()}
    (output_dir / "readout.json").write_text(json.dumps(results, indent=2) + "\n")
    show(results, root)
    print(f"\ncheckpoint: {output_dir}\npictures:   {output_dir / 'pictures'}\ncorpus:     {root}")


if __name__ == "__main__":
    main()
