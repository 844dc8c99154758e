"""
Train a classifier on labelled videos or pictures: a probe on the frozen encoder, or the whole network.

    vjepa train_classifier --model outputs/demo --dataset videos/ --output_dir outputs/probe
    vjepa train_classifier --mode finetune --model outputs/demo --dataset videos/ --output_dir outputs/fine
    accelerate launch -m transformers_vjepa train_classifier --config probe_k400_vitl16 \\
        --model CONVERTED --dataset k400_train.csv --validation_dataset k400_val.csv

Probes of several learning rates and weight decays are trained in one pass over the features. At the end the one with
the best accuracy on the validation clips is kept; test clips are looked at once, after that. The output folder is a
model that AutoModelForVideoClassification and pipeline("video-classification") load, or those for images, with
results.json, the predictions for each split, and pictures.

A recipe (--config, a YAML file) gives defaults for any of the arguments below; the command line overrides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from ..command_line.parsing import names_given, parse_with_recipe
from ..data.synthetic import APPEARANCES, MOTIONS
from .trainer import VJEPAClassificationArguments


@dataclass
class ModelArguments:
    """What is trained."""

    _argument_group_name = "model"

    mode: Literal["probe", "finetune"] = field(
        default="probe", metadata={"help": "Train a probe on the frozen encoder, or the whole network."}
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id: a pretraining checkpoint (its target encoder is used), a base model or a "
            "classifier. With --random_encoder also an architecture by name."
        },
    )
    random_encoder: bool = field(
        default=False, metadata={"help": "Do not load the weights: an untrained encoder of the same architecture."}
    )
    pooling: Literal["attentive", "mean"] = field(
        default="attentive", metadata={"help": "How the classifier pools the tokens."}
    )
    num_pooler_layers: int = field(
        default=0, metadata={"help": "Self-attention blocks after the cross-attention of the pooler."}
    )
    drop_path_rate: float = field(default=0.0, metadata={"help": "Fine-tuning: stochastic depth at the last block."})
    crop_size: int | None = field(default=None, metadata={"help": "Side of a clip in pixels, if not the model's."})
    frames_per_clip: int | None = field(default=None, metadata={"help": "Frames of a clip, if not the model's."})


@dataclass
class DataArguments:
    """Labelled clips, how they are divided, and how they are cut."""

    _argument_group_name = "data"

    dataset: str = field(
        default="synthetic:motion",
        metadata={
            "help": "A folder with a folder of videos or pictures for each class, a text or CSV index ('path label' "
            "or 'path,class name' in each line), a tar, Parquet, or a pattern. 'synthetic:motion' and "
            "'synthetic:appearance' are the built-in corpus, rendered beside the output folder, with its test clips."
        },
    )
    validation_dataset: str | None = field(default=None, metadata={"help": "Clips to choose by, if given apart."})
    validation_fraction: float = field(
        default=0.2, metadata={"help": "Else this share of each class (or of the groups) chooses; 0: nothing does."}
    )
    test_dataset: str | None = field(default=None, metadata={"help": "Clips to test on, if given apart."})
    num_folds: int | None = field(
        default=None,
        metadata={
            "help": "Cross-validation: divide the groups (--group_pattern) into so many folds; --fold is tested on."
        },
    )
    fold: int | None = field(
        default=None,
        metadata={"help": "The fold that this run tests on, from 0 to num_folds - 1; the others train it."},
    )
    group_pattern: str | None = field(
        default=None,
        metadata={"help": "Regular expression whose bracket finds the group of a clip in its path; never divided."},
    )
    train_fraction: float = field(default=1.0, metadata={"help": "Share of the training clips of each class to use."})
    split_seed: int = field(default=0, metadata={"help": "Draws these shares."})
    labels: str | None = field(
        default=None,
        metadata={"help": "File with names of numbered classes: one in a line, from 0 on."},
    )
    video_column: str | None = field(default=None, metadata={"help": "Column of a Parquet data set."})
    augment: bool | None = field(
        default=None,
        metadata={
            "help": "Random clips and crops anew in each epoch. Without, probes are trained on features that are "
            "computed once. Default: for fine-tuning."
        },
    )
    num_segments: int = field(default=1, metadata={"help": "Clips of each video, pooled together."})
    num_views: int = field(default=1, metadata={"help": "Crops of each clip in evaluation, averaged."})
    frame_step: int | None = field(
        default=None,
        metadata={"help": "Frames from one frame of a clip to the next. Default: as the model was trained, or 4."},
    )
    target_fps: float | None = field(default=None, metadata={"help": "Frames per second of a clip, instead."})
    clip_duration: float | None = field(default=None, metadata={"help": "Seconds that a clip lasts, instead."})
    spacing: Literal["stride", "linspace"] = field(
        default="stride", metadata={"help": "Place frames at the exact step, or as the published evaluation does."}
    )
    short_videos: Literal["repeat_last", "refuse"] = field(
        default="repeat_last",
        metadata={"help": "Videos that end before a clip does: repeat their last frame, or leave them out as broken."},
    )
    crop_scale: list[float] = field(
        default_factory=lambda: [0.3, 1.0], metadata={"help": "Least and largest area of a random crop."}
    )
    crop_ratio: list[float] = field(
        default_factory=lambda: [0.75, 1.35], metadata={"help": "Least and largest width/height of a random crop."}
    )
    flip_probability: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    decoder: Literal["pyav", "decord", "torchcodec"] = field(default="pyav", metadata={"help": "Video decoder."})
    max_broken_share: float = field(
        default=0.05,
        metadata={"help": "Stop above this share of broken videos among the last 1,000, from 20 of them on."},
    )
    feature_dtype: Literal["float16", "bfloat16", "float32"] = field(
        default="float16", metadata={"help": "Type of stored features."}
    )


Arguments = tuple[ModelArguments, DataArguments, VJEPAClassificationArguments]
_SPACINGS = {"frame_step", "target_fps", "clip_duration"}
SYNTHETIC = {"synthetic": "motion", "synthetic:motion": "motion", "synthetic:appearance": "appearance"}
# What a mode does not use, and what is laid out by epochs: asking for it is a mistake.
_IDLE = {
    "probe": {"learning_rate", "weight_decay", "layer_decay", "mixup", "cutmix", "label_smoothing_factor"}
    | {"drop_path_rate"},
    "finetune": {"learning_rates", "weight_decays", "feature_dtype"},
}
_LAID_OUT = {"eval_strategy", "eval_steps", "save_steps", "metric_for_best_model", "greater_is_better"}
SYNTHETIC_CLASSES = {"motion": MOTIONS, "appearance": APPEARANCES}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Command line over recipe over defaults."""
    parsed = parse_with_recipe(
        argv,
        (ModelArguments, DataArguments, VJEPAClassificationArguments),
        description=__doc__,
        recipe_help="recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments; "
        "probe_tiny where neither this nor --model or --dataset is given",
        default_recipe=lambda given: None if given & {"model", "dataset"} else "probe_tiny",
        overridden=lambda given: _SPACINGS if given & _SPACINGS else set(),
        use_cpu=not torch.accelerator.is_available(),
        dry_run_help="Say what would be done: sizes, memory, splits, steps, first videos; then exit.",
    )
    mode = parsed[0].mode
    if fixed := sorted(names_given(argv) & _LAID_OUT):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in fixed)}: when a run evaluates and saves follows from its length: "
            "leave it out"
        )
    if idle := sorted(names_given(argv) & _IDLE[mode]):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in idle)} would do nothing with --mode {mode}: leave it out"
            + (" (probes take --learning_rates and --weight_decays)" if mode == "probe" else "")
        )
    return parsed
