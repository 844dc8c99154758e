"""The runs of a study: run, resume, evaluate, collect."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import set_seed

from ..analysis.read_outs import labelled_subset
from ..analysis.surprise import measure_disturbances, summarise
from ..command_line.parsing import names_given
from ..data.corpus import IndexedCorpus
from ..data.fingerprints import DATA_RECORD, check_same_data
from ..data.splits import SplitPlan, class_names_of, labelled_splits, with_classes, write_manifests
from ..data.synthetic import build_corpus, synthetic_root
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.modeling_vjepa import VJEPAForPreTraining
from ..pretraining import setup
from ..pretraining.arguments import parse_arguments
from ..pretraining.masking import get_mask_strategy
from ..safety.atomic_files import write_text_atomically
from ..safety.sanitizing import json_text
from ..training.checkpoints import was_finished
from . import plan
from .arguments import CorpusArguments, StudyArguments
from .inputs import CLIPS_FILE
from .kinds import IMAGES, StudyKind
from .plan import Features, Job, StudyClips
from .results import contrasts, describe_machine, run_history

#: Beginning of the command line of a new process.
VJEPA = (sys.executable, "-m", "transformers_vjepa")
_LABEL_SHARES = (0.05, 0.1, 0.5, 1.0)
# Steps to measure the speeds of feature and pixel prediction: most of them come after the first epoch, in which
# decoding limits the speed.
_RACE_STEPS = 240
# Seconds between two looks at the processes, and between two updates of the time on the progress bar.
_POLL_SECONDS, _REFRESH_SECONDS = 0.5, 10.0


class StudyError(RuntimeError):
    """A run of the study failed."""


class StudyRunner:
    """
    Runs and evaluates the jobs of a study.

    Args:
        arguments: what is compared.
        data: labelled videos.
        extra: further arguments of every run of `vjepa pretrain`.
    """

    def __init__(self, arguments: StudyArguments, data: CorpusArguments, *, extra: Sequence[str] = ()):
        self.arguments, self.data, self.extra = arguments, data, extra
        self.kind = arguments.kind
        self.folder = Path(arguments.output_dir)
        self.root = self._built_in_root()
        arms = arguments.arms or (self.kind.choices if self.root else self.kind.real_arms)
        self.jobs = plan.jobs(self.kind, arms, arguments.seeds)
        model, _, training = parse_arguments(self.pretraining(self.folder, steps=None))
        _check_kind(self.kind, setup.build_config(model))
        self.steps, self.batch_size = training.max_steps, training.per_device_train_batch_size

    def _built_in_root(self) -> Path | None:
        """Folder of the built-in corpus; `None` for real videos."""
        if self.data.dataset == "synthetic":
            return synthetic_root(self.arguments.output_dir)
        root = Path(self.data.dataset)
        return root if (root / "manifest.json").is_file() and (root / "labels.csv").is_file() else None

    def prepare(self) -> None:
        """Creates the corpus, the clips and the number of steps of the pixel arm if they do not exist."""
        self._check_masks()
        self._claim_folder()
        if self.data.dataset == "synthetic":
            build_corpus(self.root)
        file, record = self.folder / CLIPS_FILE, self.folder / DATA_RECORD
        splits = None if self.root else self._splits()
        if splits is not None:
            check_same_data(record, splits, began=record if file.exists() else None, can_continue=False)
        if not file.exists():
            self._read_clips(splits).save(file)
        self._check_counts()
        if any(job.arm == "pixels" for job in self.jobs):
            self.pixel_steps()

    def _check_masks(self) -> None:
        """Refuses an arm whose masks do not fit the grid of tokens, before other arms have trained for an hour."""
        for arm in dict.fromkeys(job.arm for job in self.jobs if job.arm in self.kind.trained_arms):
            argv = self.pretraining(self.folder, steps=None, arm=arm)
            model, _, training = parse_arguments(argv)
            config = setup.build_config(model)
            setup.choose_masks(config, training, names_given(argv))
            try:
                get_mask_strategy(training.mask_generators(), config=config)
            except ValueError as error:
                raise ValueError(f"the masks of {arm} do not fit: {error}; or leave {arm} out of --arms") from error

    def _claim_folder(self) -> None:
        """Refuses a folder with a study of other settings, because the results would be mixed."""
        choices = {name: value for name, value in asdict(self.data).items() if name != "dataset"}
        choices |= {"probe_steps": self.arguments.probe_steps}
        parsed = parse_arguments(self.pretraining(self.folder, steps=self.steps))
        wanted = json.loads(json_text({"study": choices, **setup.learning_arguments(*parsed)}))
        file = self.folder / "settings.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, json_text(wanted))
        found = json.loads(file.read_text())
        for group, values in wanted.items():
            for name in sorted({*values, *found.get(group, {})}):
                old, new = found.get(group, {}).get(name), values.get(name)
                if old != new:
                    raise ValueError(
                        f"{self.folder} has a study with {name}={old} (requested: {new}): choose another folder"
                    )

    def _geometry(self) -> dict[str, Any]:
        """Crop size and frame sampling of the clips."""
        model, data, _ = parse_arguments(self.pretraining(self.folder, steps=self.steps))
        config = setup.build_config(model)
        return {"crop_size": config.crop_size, "sampling": data.clip_sampling(config.frames_per_clip)}

    def _read_clips(self, splits: Mapping[str, IndexedCorpus] | None) -> StudyClips:
        if splits is None:
            return plan.built_in_clips(self.root, **self._geometry(), tasks=self.kind.tasks)
        write_manifests(splits, self.folder)
        return plan.labelled_clips(splits, **self._geometry())

    def _splits(self) -> dict[str, IndexedCorpus]:
        """Training and test clips of real videos."""
        held_out = self.data.num_folds is None and self.data.test_dataset is None
        split = SplitPlan(
            # Probes hold out training clips of their own: the validation clips of this split are the test clips.
            validation_fraction=self.data.test_fraction if held_out else 0,
            num_folds=self.data.num_folds,
            fold=self.data.fold,
            group_pattern=self.data.group_pattern,
        )
        splits = labelled_splits(self.data.dataset, split, test_dataset=self.data.test_dataset)
        splits = {"train": splits["train"], "test": splits["validation" if held_out else "test"]}
        return with_classes(splits, class_names_of(splits))

    @cached_property
    def clips(self) -> StudyClips:
        return StudyClips.load(self.folder / CLIPS_FILE)

    # Pretraining

    def pretraining(self, folder: Path, *, steps: int | None, arm: str | None = None, seed: int = 0) -> list[str]:
        """Arguments of `vjepa pretrain` for a run of an arm, by default of the main arm."""
        videos = self.root / "train" if self.root else self.folder / "train.csv"
        steps = self.arguments.max_steps if steps is None else steps
        return [
            *("--config", self.kind.recipe, "--dataset", str(videos), "--output_dir", str(folder)),
            *(("--max_steps", str(steps)) if steps else ()),
            *("--seed", str(seed), "--save_steps", str(plan.SAVE_SHARE), "--save_total_limit", "100"),
            *("--resume_from_checkpoint", "auto", "--disable_tqdm", "true"),
            *self.extra,
            *self.kind.arms[arm or self.kind.main].arguments,
        ]

    def pixel_steps(self) -> int:
        """
        Steps of the pixel arm, which is faster because it needs no target features: the number that takes the same
        time as the other runs. Both arms run side by side for a few steps to measure their speeds. The result is kept,
        so all runs have the same number of steps.
        """
        file = self.folder / "pixel_steps.json"
        if not file.exists():
            race, steps = self.folder / "race", min(_RACE_STEPS, self.steps)
            commands = {
                arm: [*VJEPA, "pretrain", *self.pretraining(race / arm, steps=steps, arm=arm), "--save_strategy", "no"]
                for arm in (self.kind.main, "pixels")
            }
            run_side_by_side(commands, logs=race, num_processes=2)
            speeds = {arm: _clips_per_second(race / arm) for arm in commands}
            ratio = speeds["pixels"] / speeds[self.kind.main]
            found = {"clips_per_second": speeds, "ratio": ratio, "steps": max(1, round(self.steps * ratio))}
            write_text_atomically(file, json_text(found))
        return json.loads(file.read_text())["steps"]

    def steps_of(self, job: Job) -> int | None:
        """Steps of a job: 0 for the untrained network, `None` for baselines."""
        if job.arm == "pixels":
            return self.pixel_steps()
        if job.arm in self.kind.short_arms:
            return math.ceil(self.steps * plan.MASK_SHARE)
        return {"untrained": 0, "baselines": None}.get(job.arm, self.steps)

    def folder_of(self, job: Job) -> Path:
        """Folder of a run: `demo`, beside the study, if its complete run has the same arguments and checkpoints."""
        folder, demo = self.folder / "runs" / job.name, self.folder.parent / "demo"
        if job.arm != self.kind.main or folder.exists() or not (demo / "arguments.json").is_file():
            return folder
        parsed = parse_arguments(self.pretraining(folder, steps=self.steps, seed=job.seed))
        wanted = json.loads(json_text(setup.learning_arguments(*parsed)))
        recorded = json.loads((demo / "arguments.json").read_text())
        same = wanted.items() <= recorded.items()
        kept = [demo / f"checkpoint-{step}" / "model.safetensors" for step in plan.kept_steps(self.steps)]
        is_whole = all(file.is_file() for file in kept) and was_finished(demo, steps=self.steps)
        return demo if same and is_whole else folder

    def do(self, job: Job) -> None:
        """Trains the missing steps of a run, and evaluates the run."""
        folder, steps = self.folder_of(job), self.steps_of(job)
        if job.arm == "baselines":
            for name in self.kind.descriptors:
                self._evaluate(Job(name), None, None, plan.baseline_features(name, self.clips))
            return
        if job.arm == "untrained" and not (folder / "model.safetensors").is_file():
            self._save_untrained(folder, seed=job.seed)
        if job.arm in self.kind.trained_arms and not was_finished(folder, steps=steps):
            trainer = setup.run(self.pretraining(folder, steps=steps, arm=job.arm, seed=job.seed))
            if trainer.stop_signal:
                sys.exit(128 + trainer.stop_signal)
        self._evaluate(job, folder, steps, plan.model_features(folder, self.clips, steps=steps))

    def _save_untrained(self, folder: Path, *, seed: int) -> None:
        """Saves the initial network of the main run with this seed."""
        model, data, training = parse_arguments(self.pretraining(folder, steps=self.steps, seed=seed))
        set_seed(seed)
        network: VJEPAForPreTraining = setup.build_model(model, training)
        unfinished = folder.with_name(f".{folder.name}.unfinished")
        setup.video_processor(data, network.config).save_pretrained(unfinished)
        network.save_pretrained(unfinished)
        shutil.rmtree(folder, ignore_errors=True)  # without a model
        unfinished.rename(folder)

    # Results

    def _least_labels(self) -> int:
        """The number of labelled clips with which every class has two, so that probes can hold one of them out."""
        counts = [labels["train"].unique(return_counts=True)[1] for labels in self.clips.labels.values()]
        return max(math.ceil(2 * int(found.sum()) / int(found.min())) for found in counts)

    def _check_counts(self) -> None:
        """Refuses numbers of labelled clips that leave a class without two, before the runs."""
        if all(job.arm == "baselines" for job in self.jobs):
            return  # they have no probes
        counts, nouns = self._counts(), self.kind.nouns
        for name, count in (("--labels", counts["labels"]), ("--label_counts", min(counts["label_counts"]))):
            for labels in (task["train"].numpy() for task in self.clips.labels.values()):
                chosen = labels[labelled_subset(labels, count=count, seed=0)]
                if np.unique(chosen, return_counts=True)[1].min() < 2:
                    raise ValueError(
                        f"{name} {count} leaves a class without two labelled {nouns}, which probes need: at least "
                        f"{self._least_labels()} of the {len(labels)} training {nouns} give every class two"
                    )

    def _counts(self) -> dict[str, Any]:
        """Labelled clips of the main table, and the numbers of labelled clips to compare."""
        number = len(self.clips.clips["train"])
        counts = self.arguments.label_counts
        if not counts:
            shares = (max(self._least_labels(), round(share * number)) for share in _LABEL_SHARES)
            counts = sorted(set(shares))
        return {"labels": min(self.arguments.labels, number), "label_counts": counts}

    def _results_of(self, arm: str, seed: int | None) -> Path:
        return self.folder / "evaluations" / f"{Job(arm, seed).name}.json"

    def _evaluate(self, job: Job, folder: Path | None, steps: int | None, features: Features) -> None:
        """Measures what is missing of the models in a folder, or of a baseline."""
        wanted = plan.measurements(self.kind, job.arm, steps=steps, tasks=self.clips.classes, **self._counts())
        measured = sorted({item.step for item in wanted}) if folder else []
        plan.evaluate(
            wanted,
            features,
            self.clips,
            arm=job.arm,
            seed=job.seed,
            path=self._results_of(job.arm, job.seed),
            probe_steps=self.arguments.probe_steps,
            weights={step: plan.model_hash(plan.model_folder(folder, step=step, steps=steps)) for step in measured},
        )

    def collect(self) -> dict[str, Any]:
        """The content of `study.json`."""
        rows, runs = [], []
        for job in self.jobs:
            for arm in self.kind.descriptors if job.arm == "baselines" else (job.arm,):
                rows += json.loads(self._results_of(arm, job.seed).read_text())
            if job.arm == "baselines":
                continue
            folder = self.folder_of(job)
            if job.arm == "untrained":
                history = {"steps": 0, "seconds": 0.0, "loss": [], "rank": [[0, rows[-1]["rank"]]]}
            else:
                history = run_history(folder, batch_size=self.batch_size)
            runs.append({"arm": job.arm, "seed": job.seed, **history, "folder": os.path.relpath(folder, self.folder)})
        settings = {
            "kind": self.kind.name,
            "dataset": os.path.relpath(self.root, self.folder) if self.root else self.data.dataset,
            "seeds": self.arguments.seeds,
            "steps": self.steps,
            "num_test": len(self.clips.clips["test"]),
            **self._counts(),
            "classes": self.clips.classes,
            "chance": {task: 100 / len(names) for task, names in self.clips.classes.items()},
        }
        if (self.folder / "pixel_steps.json").exists():
            settings["equal_time"] = json.loads((self.folder / "pixel_steps.json").read_text())
        found = contrasts(self.kind, rows, tasks=self.clips.classes, **self._counts())
        study = {"settings": settings, "machine": describe_machine(), "rows": rows, "runs": runs, "contrasts": found}
        return study | self._surprise()

    def _surprise(self) -> dict[str, Any]:
        """The surprise of V-JEPA and of the untrained network (first seed) on the built-in videos, measured once."""
        main = self.kind.main
        both = {arm: Job(arm, self.arguments.seeds[0]) for arm in (main, "untrained")}
        frame_step = self._geometry()["sampling"].frame_step
        if (
            not self.root
            or "motion" not in self.kind.tasks
            or frame_step is None
            or not set(both.values()) <= set(self.jobs)
        ):
            return {}
        file = self.folder / "surprise.json"
        weights = {arm: plan.model_hash(self.folder_of(job)) for arm, job in both.items()}
        if not file.exists() or json.loads(file.read_text()).get("weights") != weights:
            settings = {"frame_step": frame_step, "num_pairs": plan.SURPRISE_PAIRS}
            settings["size"] = json.loads((self.root / "manifest.json").read_text())["size"]
            models = {arm: VJEPAForPreTraining.from_pretrained(self.folder_of(job)) for arm, job in both.items()}
            found = measure_disturbances(models, **settings)
            surprise = summarise(found[main], untrained=found["untrained"])
            write_text_atomically(file, json_text({"weights": weights, "surprise": surprise}))
        return {"surprise": json.loads(file.read_text())["surprise"]}


def _check_kind(kind: StudyKind, config: VJEPAConfig) -> None:
    """Refuses a model of images in a study of videos, and the other way round."""
    if config.is_image_model == (kind is IMAGES):
        return
    remedy = "leave --images out" if kind is IMAGES else "pass --images"
    raise ValueError(f"frames_per_clip={config.frames_per_clip} does not fit a study of {kind.name}: {remedy}")


def _clips_per_second(folder: Path) -> float:
    """Median of the logged speeds, without the first log, in which data loading starts."""
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    speeds = [entry["clips_per_second"] for entry in log if "clips_per_second" in entry]
    if not speeds:
        raise StudyError(f"{folder} logged no speed: set logging_steps to half of max_steps or less")
    return median(speeds[1:] or speeds)


def run_side_by_side(commands: Mapping[str, Sequence[str]], *, logs: Path, num_processes: int) -> None:
    """
    Runs commands, `num_processes` at a time, under one progress bar. Their output goes to `logs/NAME.log`. If a
    command fails or a signal arrives, the other commands get one SIGINT, save, and are waited for.

    Raises:
        StudyError: a command failed.
        KeyboardInterrupt: SIGINT or SIGTERM arrived.
    """
    threads = max(1, (os.cpu_count() or 1) // num_processes)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running, refreshed = list(commands), {}, time.monotonic()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    # SIGINT too: shells start background jobs with SIGINT ignored.
    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    bar = tqdm(total=len(waiting), desc="study", unit="run", disable=not waiting)
    try:
        while waiting or running:
            while waiting and len(running) < num_processes:
                name = waiting.pop(0)
                with open(logs / f"{name}.log", "ab") as log:
                    # In a session of its own, a process gets SIGINT only from here, and only once.
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
