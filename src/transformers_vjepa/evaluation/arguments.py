"""
Train a classifier on labelled videos or images: a probe on the frozen encoder, or the whole network. Or classify by
the nearest neighbours, without training.

    vjepa train_classifier --model outputs/demo --dataset videos/ --output_dir outputs/probe
    vjepa train_classifier --mode finetune --model outputs/demo --dataset videos/ --output_dir outputs/fine
    vjepa train_classifier --mode knn --model outputs/demo --dataset videos/ --output_dir outputs/neighbours
    accelerate launch -m transformers_vjepa train_classifier --config probe_k400_vitl16 \\
        --model CONVERTED --dataset k400_train.csv --validation_dataset k400_val.csv

Probes of several learning rates and weight decays are trained in one pass over the features. At the end the probe with
the best accuracy on the validation clips is kept; it is then tested once on the test clips. The output folder is a
model for AutoModelForVideoClassification and pipeline("video-classification"), or those for images, with results.json,
the predictions for each split, and charts.

A recipe (--config, a YAML file) gives defaults for any of the arguments below; the command line overrides it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from transformers.hf_argparser import HfArg

from ..command_line.parsing import names_given, parse_with_recipe
from ..data.arguments import SPACINGS, AugmentationArguments, DecodingArguments, SplitArguments, ViewArguments
from ..data.synthetic import APPEARANCES, MOTIONS
from .trainer import VJEPAClassificationArguments


@dataclass
class ModelArguments:
    """The model and the way it is trained."""

    _argument_group_name = "model"

    mode: Literal["probe", "finetune", "knn"] = HfArg(
        default="probe",
        help="Train a probe on the frozen encoder, or the whole network; or let the nearest training clips vote: knn.",
    )
    model: str | None = HfArg(
        default=None,
        help="Folder or Hub id: a pretraining checkpoint (its target encoder is used), a base model or a classifier. "
        "With --random_encoder also an architecture by name.",
    )
    random_encoder: bool = HfArg(
        default=False, help="Do not load the weights: an untrained encoder of the same architecture."
    )
    pooling: Literal["attentive", "mean"] = HfArg(
        default="attentive", help="How the classifier pools the tokens; with mean, a probe is linear."
    )
    num_pooled_layers: int = HfArg(
        default=1,
        help="Last layers whose means are put side by side, with --pooling mean; 1 and 4 are the published linear "
        "probes of I-JEPA.",
    )
    pooled_batch_norm: bool = HfArg(
        default=False, help="Batch normalisation between the mean and the linear layer, with --pooling mean."
    )
    num_pooler_layers: int = HfArg(default=0, help="Self-attention blocks after the cross-attention of the pooler.")
    num_neighbors: int = HfArg(default=20, help="Nearest neighbours: training clips that vote.")
    knn_temperature: float = HfArg(
        default=0.07, help="Nearest neighbours: a vote weighs exp(cosine similarity / temperature)."
    )
    drop_path_rate: float = HfArg(default=0.0, help="Fine-tuning: stochastic depth at the last block.")
    crop_size: int | None = HfArg(default=None, help="Side of a clip in pixels, if not the model's.")
    frames_per_clip: int | None = HfArg(default=None, help="Frames of a clip, if not the model's.")

    def __post_init__(self) -> None:
        if self.num_pooled_layers > 1 and self.mode != "knn" and self.pooling != "mean":
            raise ValueError(
                f"--num_pooled_layers {self.num_pooled_layers} needs --pooling mean: attentive pooling reads the last "
                "layer only"
            )
        if self.pooled_batch_norm and self.pooling != "mean":
            raise ValueError("--pooled_batch_norm true needs --pooling mean")
        if self.num_neighbors < 1:
            raise ValueError(f"--num_neighbors {self.num_neighbors} must be at least 1")
        if not 0 < self.knn_temperature < math.inf:
            raise ValueError(f"--knn_temperature {self.knn_temperature} must be positive and finite")


@dataclass(kw_only=True)
class LabelledArguments(SplitArguments):
    """Labelled clips: where they are, and how they are divided into splits."""

    dataset: str = HfArg(
        default="synthetic:motion",
        help="A folder with a folder of videos or images for each class, a text or CSV index ('path label' or "
        "'path,class name' in each line), a tar, Parquet, or a pattern. 'synthetic:motion' and 'synthetic:appearance' "
        "are the built-in corpus with its test clips, rendered beside the output folder.",
    )
    validation_dataset: str | None = HfArg(default=None, help="Validation clips, if they are a separate data set.")
    validation_fraction: float = HfArg(
        default=0.2,
        help="Without --validation_dataset: share of each class (or of the groups) used for validation; 0: none.",
    )
    train_fraction: float = HfArg(default=1.0, help="Share of the training clips of each class to use.")
    split_seed: int = HfArg(default=0, help="Seed of the random splits.")
    labels: str | None = HfArg(
        default=None, help="File with the names of numbered classes: one in each line, from class 0 on."
    )
    video_column: str | None = HfArg(default=None, help="Column of a Parquet data set with the videos or images.")
    label_column: str | None = HfArg(
        default=None,
        help="Column of a Parquet data set with the labels, such as fine_label. Default: label, labels or cls.",
    )


# The fields of the last base come first in --help.
@dataclass(kw_only=True)
class DataArguments(DecodingArguments, AugmentationArguments, ViewArguments, LabelledArguments):
    """Labelled clips, and which frames and crops are taken."""

    _argument_group_name = "data"

    augment: bool | None = HfArg(
        default=None,
        help="Draw new random clips and crops in each epoch. Without this, probes are trained on features that are "
        "computed once. Default: true for fine-tuning.",
    )
    train_crop: Literal["random", "center"] = HfArg(
        default="random",
        help="With --augment: random crops of training clips (--crop_scale, --crop_ratio), or the centre crop of the "
        "evaluation, for tasks in which a random crop would remove objects.",
    )
    auto_augment: Literal["none", "rand"] = HfArg(
        default="none",
        help="With --augment: distort each training clip by RandAugment (2 operations of magnitude 9), after crop and "
        "flip.",
    )
    feature_dtype: Literal["float16", "bfloat16", "float32"] = HfArg(
        default="float16", help="Type of stored features."
    )


class Arguments(NamedTuple):
    """All arguments of a training run."""

    model: ModelArguments
    data: DataArguments
    training: VJEPAClassificationArguments

    @property
    def augments(self) -> bool:
        """Whether training clips are cropped and flipped at random, new in each epoch."""
        return self.model.mode == "finetune" if self.data.augment is None else self.data.augment


SYNTHETIC = {"synthetic": "motion", "synthetic:motion": "motion", "synthetic:appearance": "appearance"}
# Options that a mode does not use, and options that follow from the length of a run: they are refused.
_NEIGHBOURS = {"num_neighbors", "knn_temperature"}
_FINE_TUNING = set("learning_rate weight_decay layer_decay mixup cutmix label_smoothing_factor drop_path_rate".split())
_PROBES = set("learning_rates weight_decays probe_optimizer feature_dtype".split())
_TRAINING = set(
    "augment auto_augment train_crop crop_scale crop_ratio flip_probability pooling num_pooler_layers "
    "pooled_batch_norm num_train_epochs min_steps max_steps warmup_steps lr_scheduler_type lr_scheduler_kwargs "
    "lr_milestones base_batch_size max_grad_norm load_best_model_at_end per_device_train_batch_size "
    "gradient_accumulation_steps resume_from_checkpoint push_to_hub".split()
)
_IDLE = {
    "probe": _FINE_TUNING | _NEIGHBOURS,
    "finetune": _PROBES | _NEIGHBOURS,
    "knn": _FINE_TUNING | _PROBES - {"feature_dtype"} | _TRAINING,
}
_LAID_OUT = {"eval_strategy", "eval_steps", "save_steps", "metric_for_best_model", "greater_is_better"}
SYNTHETIC_CLASSES = {"motion": MOTIONS, "appearance": APPEARANCES}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The arguments of a command line. It overrides the recipe, which overrides the defaults."""
    parsed = parse_with_recipe(
        argv,
        (ModelArguments, DataArguments, VJEPAClassificationArguments),
        description=__doc__,
        recipe_help="recipe: a name (vjepa recipes lists them) or a YAML file with values for these arguments; "
        "by default probe_tiny, if neither --model nor --dataset is given",
        default_recipe=lambda given: None if given & {"model", "dataset"} else "probe_tiny",
        overridden=lambda given: SPACINGS if given & SPACINGS else set(),
        use_cpu=not torch.accelerator.is_available(),
        dry_run_help="Show what the run would do (sizes, memory, splits, steps, first videos), and exit.",
    )
    arguments = Arguments(*parsed)
    mode = arguments.model.mode
    if fixed := sorted(names_given(argv) & _LAID_OUT):
        raise ValueError(
            f"{', '.join(f'--{name}' for name in fixed)} cannot be set, since the length of a run decides when it "
            "evaluates and saves: leave it out"
        )
    if idle := names_given(argv) & _IDLE[mode]:
        hint = " (probes take --learning_rates and --weight_decays)" if mode == "probe" and idle & _FINE_TUNING else ""
        raise ValueError(
            f"{', '.join(f'--{name}' for name in sorted(idle))} has no effect with --mode {mode}: leave it out{hint}"
        )
    for name, default in (("auto_augment", "none"), ("train_crop", "random")):
        if (value := getattr(arguments.data, name)) != default and not arguments.augments:
            raise ValueError(f"--{name} {value} has no effect without augmentation: add --augment true")
    return arguments
