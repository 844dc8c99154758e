"""Arguments of `vjepa study`."""

from dataclasses import dataclass

from transformers.hf_argparser import HfArg

from .plan import CHOICES

#: Arms of a study of real videos: masks and truncation are compared on the built-in corpus only.
REAL_ARMS = ("vjepa", "pixels", "untrained", "baselines")


@dataclass(kw_only=True)
class StudyArguments:
    """What is compared."""

    _argument_group_name = "study"

    output_dir: str = HfArg(default="outputs/study", help="Output folder.")
    arms: list[str] | None = HfArg(
        default=None, help=f"Of {', '.join(CHOICES)}. Default: all; for real videos {', '.join(REAL_ARMS)}."
    )
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1, 2], help="Each arm has a run per seed.")
    max_steps: int | None = HfArg(default=None, help="Steps of a run. Default: the recipe's (tiny_cpu).")
    labels: int = HfArg(default=200, help="Labelled clips of the main table.")
    label_counts: list[int] | None = HfArg(
        default=None, help="Numbers of labelled clips to compare. Default: 5, 10, 50 and 100 percent."
    )
    probe_steps: int = HfArg(default=400, help="Least steps of a probe; many clips need more.")
    num_processes: int = HfArg(default=2, help="Number of runs side by side, which share the cores.")
    job: str | None = HfArg(
        default=None, help="Do only this run and its evaluation, such as vjepa-seed0 or baselines."
    )


@dataclass(kw_only=True)
class CorpusArguments:
    """Labelled videos, and the test clips among them."""

    _argument_group_name = "data"

    dataset: str = HfArg(
        default="synthetic",
        help="'synthetic', the built-in corpus, rendered beside the output folder; a folder with such a corpus; or "
        "real videos: a folder for each class, or an index ('path label' per line).",
    )
    test_dataset: str | None = HfArg(default=None, help="Separate test clips.")
    test_fraction: float = HfArg(
        default=0.25, help="Share of each class (or of the groups) to test on, without --test_dataset."
    )
    num_folds: int | None = HfArg(
        default=None, help="Cross-validation: number of folds of the groups (--group_pattern); --fold tests."
    )
    fold: int | None = HfArg(
        default=None, help="The test fold, from 0 to num_folds - 1; the other folds are for training."
    )
    group_pattern: str | None = HfArg(
        default=None,
        help="Regular expression whose bracket finds the group of a clip in its path. No group is divided.",
    )
