"""
The clips of a data set with their features in memory, to find the clips nearest to another clip.

Features are the encoder's tokens averaged over space at each time step: they tell the order of events, but not the
places. They are written once, by a pass that can be stopped and resumed, and read from the folder afterwards.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..analysis.neighbours import standardised_directions
from ..analysis.read_outs import time_means
from ..data.corpora import Corpus, open_corpus
from ..data.corpus import IndexedCorpus, SubsetCorpus
from ..data.evaluation_clips import ClipGeometry
from ..data.file_corpus import FileCorpus
from ..data.fingerprints import changed_stamps, file_stamps
from ..data.synthetic import APPEARANCES, MOTIONS, CorpusConfig, build_corpus, load_labels
from ..data.table_corpus import SequentialCorpus
from ..evaluation.features import (
    COMPUTED,
    FeatureError,
    FeatureSettings,
    FeatureStore,
    pass_settings,
    weights_hash,
    write_features,
)
from ..models.vjepa.clip_sampling import ClipSampling
from ..safety.sanitizing import log_line
from .analysis import ClipAnalyzer


@dataclass(frozen=True)
class Neighbour:
    """
    A clip near another clip.

    Attributes:
        place: of the clip in [`ClipIndex`].
        score: cosine of the standardised features, from -1 to 1.
        is_same: the features are equal, so this is the same clip or a copy.
    """

    place: int
    score: float
    is_same: bool


@dataclass(frozen=True)
class LabelledCorpus:
    """
    Clips and their labels.

    Attributes:
        corpus: the clips.
        name: as users read it.
        labels: the label of every clip by task; empty for a clip without a label.
    """

    corpus: IndexedCorpus
    name: str
    labels: Mapping[str, Sequence[str]]


def spread(total: int, number: int) -> list[int]:
    """Up to `number` of the places 0 to `total` - 1, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(int)).tolist()


@dataclass(frozen=True)
class ClipIndex:
    """
    The readable clips of a data set.

    Attributes:
        data: the data set.
        places: of the clips in `data.corpus`: int64 (clips,).
        features: float32 (clips, values).
        is_pooled: the features are means over all tokens instead of one mean per time step.
    """

    data: LabelledCorpus
    places: np.ndarray
    features: torch.Tensor
    is_pooled: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def name(self, place: int) -> str:
        """The name of the file, without its folder."""
        return os.path.basename(self.data.corpus.describe(int(self.places[place])))

    def labels(self, place: int) -> dict[str, str]:
        """The labels of a clip by task, without empty labels."""
        at = int(self.places[place])
        return {task: names[at] for task, names in self.data.labels.items() if names[at]}

    def query(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        Features (clips, values) for [`ClipIndex.nearest`], of tokens of the encoder (clips, time, cells, width) of
        other clips.
        """
        return tokens.flatten(1, 2).mean(dim=1) if self.is_pooled else time_means(tokens)

    def nearest(self, features: torch.Tensor, *, number: int) -> list[Neighbour]:
        """
        At most `number` clips of the index that are nearest to another clip, the nearest first, by the features (1,
        values) of that clip; see [`ClipIndex.query`].
        """
        directions = standardised_directions(self.features, reference=self.features)
        scores = (directions @ standardised_directions(features, reference=self.features).T)[:, 0]
        found = scores.topk(min(number, len(scores)))
        # Features of the same clip differ by rounding between batches.
        size = features.norm().clamp_min(1e-6)
        is_same = (self.features[found.indices] - features).norm(dim=1) < 1e-3 * size
        rows = zip(found.indices.tolist(), found.values.tolist(), is_same.tolist(), strict=True)
        return [Neighbour(*row) for row in rows]


def votes(index: ClipIndex, neighbours: Sequence[Neighbour], *, number: int) -> dict[str, list[tuple[str, int]]]:
    """
    How often each label occurs among the `number` nearest clips, by task, the most frequent first. Neighbours that
    are the same clip do not count.
    """
    counts: dict[str, Counter[str]] = {}
    for voter in [neighbour for neighbour in neighbours if not neighbour.is_same][:number]:
        for task, label in index.labels(voter.place).items():
            counts.setdefault(task, Counter())[label] += 1
    return {task: tally.most_common() for task, tally in counts.items()}


def built_in_corpus(root: Path) -> LabelledCorpus:
    """The test clips of a built-in corpus, see [`~data.synthetic.build_corpus`]: no pretraining sees these clips."""
    records = load_labels(root, split="test")
    classes = [(motion, appearance) for motion in MOTIONS for appearance in APPEARANCES]
    corpus = FileCorpus(
        [str(record.path) for record in records],
        labels=[classes.index((record.motion, record.appearance)) for record in records],
        class_names=[" ".join(names) for names in classes],
    )
    labels = {task: [getattr(record, task) for record in records] for task in ("motion", "appearance")}
    return LabelledCorpus(corpus, "built-in corpus, test clips", labels)


def small_corpus(root: Path, *, sampling: ClipSampling) -> LabelledCorpus:
    """Renders a small built-in corpus, with videos as long as `sampling` needs them."""
    frames = sampling.offsets(20.0)[-1] + 5
    config = CorpusConfig(num_train=1, num_test=80, num_frames=max(CorpusConfig.num_frames, frames))
    return built_in_corpus(build_corpus(root, config=config))


def open_labelled(source: str, *, max_clips: int) -> LabelledCorpus:
    """
    The clips of a data set on this machine, at most `max_clips` of them, evenly spaced.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: the data set can only be streamed, or is empty.
    """
    if not any(character in source for character in "*?[{") and not os.path.exists(os.path.expanduser(source)):
        raise FileNotFoundError(
            f"there is no file or folder {source}: give a folder of videos or images, an index or features"
        )
    folder = Path(source).expanduser()
    if _is_built_in(folder):
        data = built_in_corpus(folder)
    else:
        corpus: Corpus = open_corpus(source)
        if isinstance(corpus, SequentialCorpus):
            raise ValueError(f"{source} can only be streamed: give a folder, an index or files")
        data = LabelledCorpus(corpus, folder.name or source, _label_names(corpus.labels, corpus.class_names))
    if len(data.corpus) == 0:
        raise ValueError(f"{source} holds no videos or images: check the folder or index")
    if len(data.corpus) <= max_clips:
        return data
    chosen = spread(len(data.corpus), max_clips)
    labels = {task: [names[index] for index in chosen] for task, names in data.labels.items()}
    name = f"{data.name}, {max_clips:,} of {len(data.corpus):,}"
    return LabelledCorpus(SubsetCorpus(data.corpus, np.array(chosen)), name, labels)


def _is_built_in(folder: Path) -> bool:
    """Whether the folder is a complete corpus of [`~data.synthetic.build_corpus`]."""
    if not all((folder / name).is_file() for name in ("manifest.json", "labels.csv")):
        return False
    with open(folder / "labels.csv", encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == "path,split,motion,appearance"


def _label_names(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, list[str]]:
    known = dict(enumerate(class_names))
    names = ["" if label < 0 else known.get(label, f"class {label}") for label in labels]
    return {"class": names} if any(names) else {}


def build_index(analyzer: ClipAnalyzer, data: LabelledCorpus, *, folder: Path) -> ClipIndex:
    """
    Features of all clips. Features that an earlier call has written to `folder` are read from there, except those of
    files that were replaced.

    Args:
        analyzer: its frozen encoder computes the features.
        data: the clips.
        folder: gets a sub-folder for this encoder and these clips.

    Raises:
        ValueError: no clip can be read.
        TooManyBrokenVideosError: most clips cannot be read.
    """
    model, processor, corpus = analyzer.model.vjepa, analyzer.processor, data.corpus
    geometry = ClipGeometry(crop_size=model.config.crop_size, sampling=analyzer.sampling)
    made_of = pass_settings(model.encoder, corpus, geometry, config=model.config, processor=processor)
    place = folder / f"features-{hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]}"
    write_features(
        model,
        corpus,
        place,
        features=FeatureSettings(kind="time_means", dtype="float32"),
        geometry=geometry,
        processor=processor,
    )
    return _read_index(FeatureStore(place), data, num_steps=model.config.grid_size[0])


def open_index(folder: str, analyzer: ClipAnalyzer, *, max_clips: int) -> ClipIndex:
    """
    An index from a folder of features that [`write_features`] has written.

    Raises:
        ShardError: the folder has no features.
        FeatureError: the features are of another encoder, or of other clips than the app shows; or a clip was replaced
            after its features were written.
    """
    store, config = FeatureStore(folder), analyzer.config
    wanted = {
        "weights": weights_hash(analyzer.model.vjepa.encoder),
        "config": {name: getattr(config, name) for name in COMPUTED},
        "num_segments": 1,
        "num_views": 1,
        "crop_size": config.crop_size,
        "sampling": json.loads(json.dumps(vars(analyzer.sampling))),
        "image_mean": list(analyzer.processor.image_mean),
        "image_std": list(analyzer.processor.image_std),
    }
    if other := [name for name, value in wanted.items() if store.settings.get(name) != value]:
        raise FeatureError(
            f"the features in {folder} differ from those of the app in {', '.join(other)}: give --dataset the videos "
            "themselves, or features of this model with one segment and one view"
        )
    corpus = FileCorpus(list(store.paths), labels=store.labels, class_names=store.class_names)
    stamps = file_stamps(corpus, range(len(corpus)))
    is_known = (stamps[:, 0] >= 0) & (store.stamps[:, 0] >= 0)
    if len(replaced := np.flatnonzero(changed_stamps(store.stamps, stamps) & is_known)):
        raise FeatureError(
            f"clips that were replaced after their features were written to {folder}: {len(replaced):,}, such as "
            f"{log_line(store.paths[int(replaced[0])])}: run vjepa extract_features again"
        )
    data = LabelledCorpus(corpus, Path(folder).name, _label_names(store.labels, store.class_names))
    return _read_index(store, data, num_steps=config.grid_size[0], rows=spread(len(store), max_clips))


def _read_index(
    store: FeatureStore, data: LabelledCorpus, *, num_steps: int, rows: Sequence[int] | None = None
) -> ClipIndex:
    """With `rows`, the clips of `data` are those of the store; without, the store has the readable ones of `data`."""
    features = []
    for row in range(len(store)) if rows is None else rows:
        values = store[row]["features"][0].float()  # one view
        if store.kind == "tokens":
            values = values.unflatten(0, (num_steps, -1)).mean(dim=1)
        features.append(values.flatten())
    places = store.index if rows is None else np.array(rows)
    return ClipIndex(data, places, torch.stack(features), is_pooled=store.kind == "mean")
