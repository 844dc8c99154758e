"""The two kinds of studies, of videos (V-JEPA) and of images (I-JEPA): their arms, and what the papers expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..analysis.baselines import BASELINES, IMAGE_BASELINES


@dataclass(frozen=True)
class Arm:
    """
    One line of a comparison.

    Attributes:
        label: name in figures and tables.
        color: a name of [`~figures.style.COLORS`].
        arguments: arguments of `vjepa pretrain` that differ from the recipe; `None` if the arm is not trained.
        is_baseline: a hand-crafted descriptor, without network and seed.
    """

    label: str
    color: str
    arguments: tuple[str, ...] | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class StudyKind:
    """
    What a study of videos or of images compares.

    Attributes:
        name: in `study.json`.
        method: the method that is studied, in texts.
        noun: what a network sees, in texts; `nouns` is the plural.
        recipe: of all runs.
        loss: of the prediction of features, in texts.
        output_dir: default of the command.
        tasks: labels of the built-in corpus that are read out.
        main: name of the arm of the method.
        arms: all arms by name.
        mask_arms: arms with other masks; the first has the masks of the main arm. They are trained for a share of the
            steps.
        block_arms: arms with other sizes, numbers or places of the same kind of masks, trained as long as `mask_arms`.
        read_outs: the read-outs in which arms, label counts and checkpoints are compared: a closed form and a probe.
        expectations: name of a contrast, and two arms of which the paper expects the first to be better.
        expects_of_read_outs: whether the paper also expects that the lead over the untrained network is larger with
            few labels, and that attentive pooling is better than mean pooling.
    """

    name: Literal["videos", "images"]
    method: str
    noun: str
    recipe: str
    loss: str
    output_dir: str
    tasks: tuple[str, ...]
    main: str
    arms: Mapping[str, Arm]
    mask_arms: tuple[str, ...]
    read_outs: tuple[str, str]
    expectations: Mapping[str, tuple[str, str]]
    block_arms: tuple[str, ...] = ()
    expects_of_read_outs: bool = False

    @property
    def nouns(self) -> str:
        return f"{self.noun}s"

    @property
    def words(self) -> dict[str, str]:
        """Words to fill into texts."""
        return {"method": self.method, "noun": self.noun, "nouns": self.nouns}

    @property
    def label_arms(self) -> tuple[str, ...]:
        """Arms that are compared over the number of labels."""
        return (self.main, "untrained", "pixels")

    @property
    def short_arms(self) -> tuple[str, ...]:
        """Arms that are trained for a share of the steps."""
        return (*self.mask_arms, *self.block_arms)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """Names of the hand-crafted descriptors."""
        return tuple(name for name, arm in self.arms.items() if arm.is_baseline)

    @property
    def trained_arms(self) -> tuple[str, ...]:
        return tuple(name for name, arm in self.arms.items() if arm.arguments is not None)

    @property
    def choices(self) -> tuple[str, ...]:
        """Values of `--arms`; all baselines are one of them."""
        return (*self.trained_arms, "untrained", "baselines")

    @property
    def real_arms(self) -> tuple[str, ...]:
        """Arms of a study of real data by default: masks are compared on the built-in corpus only."""
        return (self.main, "pixels", "untrained", "baselines")

    def label(self, arm: str) -> str:
        """Name of an arm in figures and tables."""
        return self.arms[arm].label if arm in self.arms else arm.replace("_", " ")


# Pixel prediction cannot collapse, so this arm disables the VICReg terms.
_PIXELS = ("--prediction_target", "pixels", "--context_variance_weight", "0", "--context_covariance_weight", "0")
_COMMON = {
    "pixels": Arm("pixel prediction", "pixels", _PIXELS),
    "multiblock": Arm("multi-block", "vjepa", ()),
    "untrained": Arm("untrained", "untrained"),
}


def _descriptors(names: Mapping[str, object]) -> dict[str, Arm]:
    return {name: Arm(name.replace("_", " "), "baseline", is_baseline=True) for name in names}


VIDEOS = StudyKind(
    name="videos",
    method="V-JEPA",
    noun="clip",
    recipe="tiny_cpu",
    loss="L1",
    output_dir="outputs/study",
    tasks=("motion", "appearance"),
    main="vjepa",
    arms={
        "vjepa": Arm("V-JEPA", "vjepa", ()),
        "pixels": _COMMON["pixels"],
        "multiblock": _COMMON["multiblock"],
        "random_tube": Arm("random tubes", "random_tube", ("--mask_strategy", "random_tube")),
        "causal": Arm("causal multi-block", "causal", ("--mask_strategy", "causal_multiblock_6")),
        "published_truncation": Arm(
            "published truncation", "published_truncation", ("--mask_truncation", "published")
        ),
        "untrained": _COMMON["untrained"],
        **_descriptors(BASELINES),
    },
    mask_arms=("multiblock", "random_tube", "causal", "published_truncation"),
    read_outs=("ridge", "attentive"),
    expectations={
        "features - untrained": ("vjepa", "untrained"),
        "features - pixels": ("vjepa", "pixels"),
        "multi-block - random tube": ("multiblock", "random_tube"),
        "multi-block - causal": ("multiblock", "causal"),
        "balanced - published truncation": ("multiblock", "published_truncation"),
    },
    expects_of_read_outs=True,
)
# The arms and expectations are those of I-JEPA: the strategies of Table 6, and the ablations of the appendix, of the
# sizes and the number of the blocks, and of the place where the targets are masked.
IMAGES = StudyKind(
    name="images",
    method="I-JEPA",
    noun="image",
    recipe="tiny_images",
    loss="smooth L1",
    output_dir="outputs/image_study",
    tasks=("appearance",),
    main="ijepa",
    arms={
        "ijepa": Arm("I-JEPA", "vjepa", ()),
        "pixels": _COMMON["pixels"],
        "multiblock": _COMMON["multiblock"],
        "raster": Arm("rasterized", "causal", ("--mask_strategy", "image_raster")),
        "block": Arm("one block", "published_truncation", ("--mask_strategy", "image_block")),
        "random": Arm("random tokens", "random_tube", ("--mask_strategy", "image_random")),
        "target_scale_small": Arm("smaller targets", "muted", ("--mask_target_scale", "0.075", "0.2")),
        "target_scale_large": Arm("larger targets", "muted", ("--mask_target_scale", "0.2", "0.3")),
        "context_scale_small": Arm("smaller context", "muted", ("--mask_context_scale", "0.4", "1.0")),
        "targets_1": Arm("one target", "muted", ("--mask_num_targets", "1")),
        "targets_2": Arm("two targets", "muted", ("--mask_num_targets", "2")),
        "targets_at_input": Arm("masked at the input", "muted", ("--mask_targets_at", "input")),
        "untrained": _COMMON["untrained"],
        **_descriptors(IMAGE_BASELINES),
    },
    mask_arms=("multiblock", "raster", "block", "random"),
    block_arms=(
        "target_scale_small",
        "target_scale_large",
        "context_scale_small",
        "targets_1",
        "targets_2",
        "targets_at_input",
    ),
    read_outs=("ridge", "mean"),
    expectations={
        "features - untrained": ("ijepa", "untrained"),
        "features - pixels": ("ijepa", "pixels"),
        "multi-block - rasterized": ("multiblock", "raster"),
        "multi-block - one block": ("multiblock", "block"),
        "multi-block - random tokens": ("multiblock", "random"),
        "published - smaller targets": ("multiblock", "target_scale_small"),
        "published - larger targets": ("multiblock", "target_scale_large"),
        "published - smaller context": ("multiblock", "context_scale_small"),
        "four targets - one target": ("multiblock", "targets_1"),
        "four targets - two targets": ("multiblock", "targets_2"),
        "masked at the output - at the input": ("multiblock", "targets_at_input"),
    },
)
KINDS: dict[str, StudyKind] = {kind.name: kind for kind in (VIDEOS, IMAGES)}
