"""The runs of a study: run what is missing, resume, evaluate, collect."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from tqdm.auto import tqdm
from transformers import set_seed

from ..analysis.baselines import BASELINES
from ..analysis.surprise import measure_disturbances, summarise
from ..command_line.parsing import parse_with_recipe
from ..data.splits import SplitPlan, labelled_splits, write_manifests
from ..data.synthetic import build_corpus
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..pretraining.arguments import parse_arguments
from ..pretraining.setup import (
    build_config,
    build_model,
    clip_sampling,
    learning_arguments,
    synthetic_root,
    video_processor,
)
from ..pretraining.setup import run as run_pretraining
from ..training.checkpoints import trained_steps
from .plan import (
    ARMS,
    MASK_ARMS,
    MASK_SHARE,
    SAVE_SHARE,
    TRAINED_ARMS,
    Job,
    StudyClips,
    baseline_features,
    built_in_clips,
    evaluate,
    jobs,
    kept_steps,
    labelled_clips,
    measurements,
    model_features,
)
from .results import contrasts, describe_machine, run_history

# A real corpus tells less: masks and truncation are compared on the built-in one.
_REAL_ARMS = ("vjepa", "pixels", "untrained", "baselines")
_LABEL_SHARES = (0.05, 0.1, 0.5, 1.0)
# Steps in which features and pixels race each other, to find how many make equal time: most of them after the first
# epoch, in which decoding sets the pace.
_RACE_STEPS = 240
# Pairs of clips for each kind of disturbance; a multiple of 40 has each pair of labels equally often.
_SURPRISE_PAIRS = 200


@dataclass(kw_only=True)
class StudyArguments:
    """What is compared."""

    _argument_group_name = "study"

    output_dir: str = field(default="outputs/study", metadata={"help": "Where everything is written."})
    arms: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Of {', '.join(ARMS)}. Default: all; of a real corpus {', '.join(_REAL_ARMS)}.",
        },
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A run of each arm for each."})
    max_steps: int | None = field(default=None, metadata={"help": "Steps of a run. Default: the recipe's (tiny_cpu)."})
    labels: int = field(default=200, metadata={"help": "Labelled clips of the main table."})
    label_counts: list[int] | None = field(
        default=None, metadata={"help": "Numbers of labelled clips to compare. Default: 5, 10, 50 and 100 percent."}
    )
    probe_steps: int = field(default=400, metadata={"help": "Least steps of a probe; more where clips are many."})
    num_processes: int = field(default=2, metadata={"help": "Runs side by side, which share the cores."})
    job: str | None = field(
        default=None,
        metadata={"help": "Do this run and its evaluation only, such as vjepa-seed0 or baselines."},
    )


@dataclass(kw_only=True)
class CorpusArguments:
    """Labelled videos, and which of them test."""

    _argument_group_name = "data"

    dataset: str = field(
        default="synthetic",
        metadata={
            "help": "'synthetic', the built-in corpus, rendered beside the output folder; a folder with such a "
            "corpus; or real videos: a folder for each class, or an index ('path label' per line)."
        },
    )
    test_dataset: str | None = field(default=None, metadata={"help": "Clips to test on, if given apart."})
    test_fraction: float = field(
        default=0.25, metadata={"help": "Else this share of each class (or of the groups) is tested on."}
    )
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


class Study:
    """The study of a command line: its corpus, its runs, and where their results are."""

    def __init__(self, argv: Sequence[str]):
        own, _, extra = (list(part) for part in _partition(argv))
        self.argv, self.extra = own, extra
        self.arguments, self.data = parse_with_recipe(own, (StudyArguments, CorpusArguments), description=__doc__)
        self.folder = Path(self.arguments.output_dir)
        self.root = self._built_in_root()
        arms = self.arguments.arms or (ARMS if self.root else _REAL_ARMS)
        self.jobs = jobs(arms, self.arguments.seeds)
        _, _, training = parse_arguments(self.pretraining(self.folder, steps=None))
        self.steps, self.batch_size = training.max_steps, training.per_device_train_batch_size

    def _built_in_root(self) -> Path | None:
        if self.data.dataset == "synthetic":
            return synthetic_root(self.arguments.output_dir)
        root = Path(self.data.dataset)
        return root if (root / "manifest.json").is_file() and (root / "labels.csv").is_file() else None

    @property
    def training_videos(self) -> Path:
        return self.root / "train" if self.root else self.folder / "train.csv"

    def prepare(self) -> None:
        """Corpus, clips and the number of steps of the pixel arm; what is there already stays."""
        self._claim_folder()
        if self.data.dataset == "synthetic":
            build_corpus(self.root)
        if not (self.folder / "clips.pt").exists():
            self._read_clips().save(self.folder / "clips.pt")
        if any(job.arm == "pixels" for job in self.jobs):
            self.pixel_steps()

    def _claim_folder(self) -> None:
        """Refuses a folder with a study of other settings: their results would be mixed."""
        model, data, training = parse_arguments(self.pretraining(self.folder, steps=self.steps))
        choices = {name: value for name, value in asdict(self.data).items() if name != "dataset"}
        choices |= {"probe_steps": self.arguments.probe_steps}
        wanted = {"study": choices, **learning_arguments(model, data, training)}
        file = self.folder / "settings.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(wanted, indent=2) + "\n")
        found, wanted = json.loads(file.read_text()), json.loads(json.dumps(wanted))
        for group, values in wanted.items():
            for name in sorted({*values, *found.get(group, {})}):
                old, new = found.get(group, {}).get(name), values.get(name)
                if old != new:
                    raise ValueError(
                        f"{self.folder} holds a study with {name}={old} (asked for: {new}): choose another folder"
                    )

    def _geometry(self) -> dict[str, Any]:
        """How clips are cut for models and baselines."""
        model, data, _ = parse_arguments(self.pretraining(self.folder, steps=self.steps))
        config = build_config(model)
        return {"crop_size": config.crop_size, "sampling": clip_sampling(data, config)}

    def _read_clips(self) -> StudyClips:
        if self.root:
            return built_in_clips(self.root, **self._geometry())
        held_out = self.data.num_folds is None and self.data.test_dataset is None
        plan = SplitPlan(
            # Probes choose among their own clips: the part held out here is the one to test on.
            validation_fraction=self.data.test_fraction if held_out else 0,
            num_folds=self.data.num_folds,
            fold=self.data.fold,
            group_pattern=self.data.group_pattern,
        )
        splits = labelled_splits(self.data.dataset, plan, test_dataset=self.data.test_dataset)
        splits = {"train": splits["train"], "test": splits["validation" if held_out else "test"]}
        write_manifests(splits, self.folder)
        return labelled_clips(splits, **self._geometry())

    @cached_property
    def clips(self) -> StudyClips:
        return StudyClips.load(self.folder / "clips.pt")

    # Pretraining

    def pretraining(self, folder: Path, *, steps: int | None, arm: str = "vjepa", seed: int = 0) -> list[str]:
        """Arguments of pretrain.py for a run."""
        steps = self.arguments.max_steps if steps is None else steps
        return [
            *("--config", "tiny_cpu", "--dataset", str(self.training_videos), "--output_dir", str(folder)),
            *(("--max_steps", str(steps)) if steps else ()),
            *("--seed", str(seed), "--save_steps", str(SAVE_SHARE), "--save_total_limit", "100"),
            *("--resume_from_checkpoint", "auto", "--disable_tqdm", "true"),
            *self.extra,
            *TRAINED_ARMS[arm],
        ]

    def pixel_steps(self) -> int:
        """
        Steps of the pixel arm, which needs no target features and so is faster: as many as fit into the time of the
        others. Both race side by side for a few steps; the ratio is kept, so that every run has the same number.
        """
        file = self.folder / "pixel_steps.json"
        if not file.exists():
            commands, steps = {}, min(_RACE_STEPS, self.steps)
            for arm in ("vjepa", "pixels"):
                argv = self.pretraining(self.folder / "race" / arm, steps=steps, arm=arm)
                commands[arm] = [
                    sys.executable,
                    "-m",
                    "transformers_vjepa",
                    "pretrain",
                    *argv,
                    "--save_strategy",
                    "no",
                ]
            run_side_by_side(commands, logs=self.folder / "race", num_processes=2)
            speeds = {arm: _clips_per_second(self.folder / "race" / arm) for arm in commands}
            ratio = speeds["pixels"] / speeds["vjepa"]
            found = {"clips_per_second": speeds, "ratio": ratio, "steps": max(1, round(self.steps * ratio))}
            file.write_text(json.dumps(found, indent=2) + "\n")
        return json.loads(file.read_text())["steps"]

    def steps_of(self, job: Job) -> int | None:
        if job.arm in TRAINED_ARMS:
            if job.arm in MASK_ARMS:
                return math.ceil(self.steps * MASK_SHARE)
            return self.pixel_steps() if job.arm == "pixels" else self.steps
        return 0 if job.arm == "untrained" else None

    def folder_of(self, job: Job) -> Path:
        """Where the run is: that of the demo counts, if its arguments are the same."""
        folder = self.folder / "runs" / job.name
        demo = self.folder.parent / "demo"
        if job.arm != "vjepa" or folder.exists() or not (demo / "arguments.json").is_file():
            return folder
        parsed = parse_arguments(self.pretraining(folder, steps=self.steps, seed=job.seed))
        wanted = json.loads(json.dumps(learning_arguments(*parsed)))
        kept = all((demo / f"checkpoint-{step}" / "model.safetensors").is_file() for step in kept_steps(self.steps))
        recorded = json.loads((demo / "arguments.json").read_text())
        same = all(recorded.get(group) == values for group, values in wanted.items())
        return demo if same and kept and is_complete(demo, steps=self.steps) else folder

    def do(self, job: Job) -> None:
        """Trains what is left to train of a run, and evaluates it."""
        folder, steps = self.folder_of(job), self.steps_of(job)
        if job.arm == "untrained" and not (folder / "model.safetensors").is_file():
            self._save_untrained(folder, seed=job.seed)
        if job.arm in TRAINED_ARMS and not is_complete(folder, steps=steps):
            trainer = run_pretraining(self.pretraining(folder, steps=steps, arm=job.arm, seed=job.seed))
            if trainer.stop_signal:
                sys.exit(128 + trainer.stop_signal)
        if job.arm == "baselines":
            for name in BASELINES:
                self._evaluate(name, None, None, lambda name=name: baseline_features(name, self.clips))
        else:
            self._evaluate(job.arm, job.seed, steps, lambda: model_features(folder, self.clips, steps=steps))

    def _save_untrained(self, folder: Path, *, seed: int) -> None:
        """The network that the run of V-JEPA with this seed starts from."""
        model, data, training = parse_arguments(self.pretraining(folder, steps=self.steps, seed=seed))
        set_seed(seed)
        network: VJEPAForPreTraining = build_model(model, training)
        video_processor(data, network.config).save_pretrained(folder)
        network.save_pretrained(folder)

    # Results

    @property
    def label_counts(self) -> list[int]:
        number = len(self.clips.clips["train"])
        return self.arguments.label_counts or [max(1, round(share * number)) for share in _LABEL_SHARES]

    @property
    def main_labels(self) -> int:
        return min(self.arguments.labels, len(self.clips.clips["train"]))

    def _results_of(self, arm: str, seed: int | None) -> Path:
        return self.folder / "evaluations" / f"{Job(arm, seed).name}.json"

    def _wanted(self, arm: str, steps: int | None) -> list:
        counts = {"labels": self.main_labels, "label_counts": self.label_counts}
        return measurements(arm, steps=steps, tasks=self.clips.classes, **counts)

    def _evaluate(self, arm: str, seed: int | None, steps: int | None, features: Any) -> None:
        wanted, path = self._wanted(arm, steps), self._results_of(arm, seed)
        settings = {"arm": arm, "seed": seed, "path": path, "probe_steps": self.arguments.probe_steps}
        evaluate(wanted, features(), self.clips, **settings)

    def collect(self) -> dict[str, Any]:
        """What is written to study.json."""
        rows, runs = [], []
        for job in self.jobs:
            for arm in BASELINES if job.arm == "baselines" else (job.arm,):
                rows += json.loads(self._results_of(arm, job.seed).read_text())
            if job.arm == "baselines":
                continue
            folder = self.folder_of(job)
            if job.arm == "untrained":
                history = {"steps": 0, "seconds": 0.0, "loss": [], "rank": [[0, rows[-1]["rank"]]]}
            else:
                history = run_history(folder, batch_size=self.batch_size)
            where = os.path.relpath(folder, self.folder)
            runs.append({"arm": job.arm, "seed": job.seed, **history, "folder": where})
        counts = {"labels": self.main_labels, "label_counts": self.label_counts}
        settings = {
            "dataset": os.path.relpath(self.root, self.folder) if self.root else self.data.dataset,
            "seeds": self.arguments.seeds,
            "steps": self.steps,
            "num_test": len(self.clips.clips["test"]),
            **counts,
            "classes": self.clips.classes,
            "chance": {task: 100 / len(names) for task, names in self.clips.classes.items()},
        }
        if (self.folder / "pixel_steps.json").exists():
            settings["equal_time"] = json.loads((self.folder / "pixel_steps.json").read_text())
        found = contrasts(rows, tasks=self.clips.classes, **counts)
        study = {"settings": settings, "machine": describe_machine(), "rows": rows, "runs": runs, "contrasts": found}
        return study | self._surprise()

    def _surprise(self) -> dict[str, Any]:
        """Whether V-JEPA (first seed) notices what is wrong in clips of the built-in corpus; measured once."""
        job, fresh = (Job(arm, self.arguments.seeds[0]) for arm in ("vjepa", "untrained"))
        frame_step = self._geometry()["sampling"].frame_step
        if not self.root or frame_step is None or not {job, fresh} <= set(self.jobs):
            return {}
        file = self.folder / "surprise.json"
        if not file.exists():
            settings = {"frame_step": frame_step, "num_pairs": _SURPRISE_PAIRS}
            settings["size"] = json.loads((self.root / "manifest.json").read_text())["size"]
            trained, untrained = (
                measure_disturbances(VJEPAForPreTraining.from_pretrained(self.folder_of(one)), **settings)
                for one in (job, fresh)
            )
            file.write_text(json.dumps(summarise(trained, untrained=untrained), indent=2) + "\n")
        return {"surprise": json.loads(file.read_text())}


def _partition(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    place = argv.index("--") if "--" in argv else len(argv)
    return argv[:place], argv[place : place + 1], argv[place + 1 :]


def _clips_per_second(folder: Path) -> float:
    """As logged, without the first time, in which data loading starts."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    speeds = [entry["clips_per_second"] for entry in log if "clips_per_second" in entry]
    if not speeds:
        raise StudyError(f"{folder} logged no speed: set logging_steps to half of max_steps or less")
    return median(speeds[1:] or speeds)


# How often runs side by side are looked at, and the time on their progress bar is brought up to date.
_POLL_SECONDS, _REFRESH_SECONDS = 0.5, 10.0


class StudyError(RuntimeError):
    """A run of the study failed."""


def is_complete(folder: Path, *, steps: int) -> bool:
    """Whether a run of so many steps has ended there."""
    files = (folder / "trainer_state.json", folder / "model.safetensors")
    return all(file.is_file() for file in files) and trained_steps(folder) >= steps


def run_side_by_side(commands: Mapping[str, Sequence[str]], *, logs: Path, num_processes: int) -> None:
    """
    Runs commands, `num_processes` at a time, under one progress bar. What they print goes to `logs/NAME.log`. However
    this ends, the ones that still run get one SIGINT, with which our scripts save, and are waited for.

    Raises:
        StudyError: a command failed.
        KeyboardInterrupt: SIGINT, or SIGTERM.
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, refreshed = list(commands), {}, time.monotonic()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # SIGINT, too: shells start background jobs with it ignored.
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    bar = tqdm(total=len(waiting), desc="study", unit="run", disable=not waiting)
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                name = waiting.pop(0)
                with open(logs / f"{name}.log", "ab") as log:
                    # In a session of their own they hear of Ctrl-C from here only, and once.
                    running[name] = subprocess.Popen(
                        commands[name], env=environment, stdout=log, stderr=log, start_new_session=True
                    )
            if (shown := ", ".join(running)) != (bar.postfix or "") or time.monotonic() > refreshed + _REFRESH_SECONDS:
                bar.set_postfix_str(shown)
                refreshed = time.monotonic()
            time.sleep(_POLL_SECONDS)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                if code := running.pop(name).returncode:
                    last = (logs / f"{name}.log").read_text(errors="replace").strip().splitlines()[-1:]
                    raise StudyError(f"{name} ended with code {code}: {''.join(last)} (see {logs / name}.log)")
                bar.update()
    finally:
        if running:
            bar.write(f"stopping: {', '.join(running)} save first")
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            process.wait()
        bar.close()
        for number, handler in previous.items():
            signal.signal(number, handler)


__all__ = [
    "StudyError",
    "is_complete",
    "run_side_by_side",
]
