"""Arguments of `vjepa study`."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from ..data.arguments import SplitArguments
from .kinds import IMAGES, VIDEOS, StudyKind


@dataclass(kw_only=True)
class StudyArguments:
    """What is compared."""

    _argument_group_name = "study"

    images: bool = HfArg(default=False, help="Study I-JEPA on images instead of V-JEPA on videos.")
    output_dir: str | None = HfArg(
        default=None, help=f"Output folder. Default: {VIDEOS.output_dir}; with --images {IMAGES.output_dir}."
    )
    arms: list[str] | None = HfArg(
        default=None,
        help=f"Of {', '.join(VIDEOS.choices)}; with --images of {', '.join(IMAGES.choices)}. Default: all; for real "
        f"data {', '.join(VIDEOS.real_arms)}, with --images {', '.join(IMAGES.real_arms)}.",
    )
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1, 2], help="Each arm has a run per seed.")
    max_steps: int | None = HfArg(
        default=None, help="Steps of a run. Default: the recipe's (tiny_cpu; with --images tiny_images)."
    )
    labels: int = HfArg(default=200, help="Labelled clips or images of the main table.")
    label_counts: list[int] | None = HfArg(
        default=None,
        help="Numbers of labelled clips or images to compare. Default: 5, 10, 50 and 100 percent, "
        "and at least two of each class.",
    )
    probe_steps: int = HfArg(default=400, help="Least steps of a probe; many clips need more.")
    num_processes: int = HfArg(default=2, help="Number of runs side by side, which share the cores.")
    job: str | None = HfArg(
        default=None, help="Do only this run and its evaluation, such as vjepa-seed0 or baselines."
    )

    @property
    def kind(self) -> StudyKind:
        return IMAGES if self.images else VIDEOS

    def __post_init__(self) -> None:
        self.output_dir = self.output_dir or self.kind.output_dir


@dataclass(kw_only=True)
class CorpusArguments(SplitArguments):
    """Labelled videos or images, and those among them to test on."""

    _argument_group_name = "data"

    dataset: str = HfArg(
        default="synthetic",
        help="'synthetic', the built-in corpus, rendered beside the output folder (with --images the middle frame of "
        "each video); a folder with such a corpus; or real videos or images: a folder for each class, or an index "
        "('path label' per line).",
    )
    test_fraction: float = HfArg(
        default=0.25, help="Share of each class (or of the groups) to test on, without --test_dataset."
    )
