"""
The clips of a data set with their features in memory, for the question which of them are nearest to another clip.

Features are the encoder's tokens averaged over space at each time step, so that the order of events counts and places
do not. They are written once, by a pass that can be stopped and continued, and read from there afterwards.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..analysis.neighbours import standardised_directions
from ..analysis.read_outs import time_means
from ..data.corpora import Corpus, FileCorpus, IndexedCorpus, SequentialCorpus, SubsetCorpus, open_corpus
from ..data.splits import manifest_hash
from ..data.synthetic import APPEARANCES, MOTIONS, CorpusConfig, build_corpus, load_labels
from ..evaluation.features import FeatureError, FeatureStore, weights_hash, write_features
from ..models.vjepa.clip_sampling import ClipSampling
from ..models.vjepa.modeling_vjepa import VJEPAModel
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor


@dataclass(frozen=True)
class Neighbour:
    """
    A clip near to another one.

    Attributes:
        place: of the clip in [`ClipIndex`].
        score: cosine of the standardised features, from -1 to 1.
        is_same: whether the features are equal: it is the clip itself, or a copy.
    """

    place: int
    score: float
    is_same: bool


@dataclass(frozen=True)
class LabelledCorpus:
    """
    Clips and what is known of them.

    Attributes:
        corpus: where they are read.
        name: what people call it.
        labels: by task, the label of every clip; empty where it has none.
    """

    corpus: IndexedCorpus
    name: str
    labels: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class ClipIndex:
    """
    The clips of a data set that could be read.

    Attributes:
        data: the data set.
        places: of the clips in `data.corpus`: int64 (clips,).
        features: float32 (clips, values).
        is_pooled: the features have no time steps, but are means over all tokens.
    """

    data: LabelledCorpus
    places: np.ndarray
    features: torch.Tensor
    is_pooled: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def name(self, place: int) -> str:
        """Of the file, without its folder."""
        return os.path.basename(self.data.corpus.describe(int(self.places[place])))

    def labels(self, place: int) -> dict[str, str]:
        """By task, where it has some."""
        at = int(self.places[place])
        return {task: names[at] for task, names in self.data.labels.items() if names[at]}

    def spread(self, number: int) -> list[int]:
        """Up to `number` clips from the first to the last, evenly."""
        return np.unique(np.linspace(0, len(self) - 1, min(number, len(self))).round().astype(int)).tolist()

    def query(self, tokens: torch.Tensor) -> torch.Tensor:
        """
        The features to ask with, of tokens as the encoder gives them.

        Args:
            tokens: (clips, time, cells, width).

        Returns:
            (clips, values)
        """
        return tokens.flatten(1, 2).mean(dim=1) if self.is_pooled else time_means(tokens)

    def nearest(self, features: torch.Tensor, *, number: int) -> list[Neighbour]:
        """
        The clips of the index that are nearest to another one, the nearest first.

        Args:
            features: (1, values), what [`ClipIndex.query`] gives.
            number: of clips, at most.
        """
        directions = standardised_directions(self.features, reference=self.features)
        scores = (directions @ standardised_directions(features, reference=self.features).T)[:, 0]
        found = scores.topk(min(number, len(scores)))
        # Features of one clip differ by rounding between batches.
        size = features.norm().clamp_min(1e-6)
        is_same = (self.features[found.indices] - features).norm(dim=1) < 1e-3 * size
        rows = zip(found.indices.tolist(), found.values.tolist(), is_same.tolist(), strict=True)
        return [Neighbour(place, score, same) for place, score, same in rows]


def votes(index: ClipIndex, neighbours: Sequence[Neighbour], *, number: int) -> dict[str, list[tuple[str, int]]]:
    """
    How often labels occur among the `number` nearest clips, the most frequent first. A clip whose features equal those
    of the question is the question itself: it has no vote.
    """
    counts: dict[str, dict[str, int]] = {}
    voters = [neighbour for neighbour in neighbours if not neighbour.is_same][:number]
    for voter in voters:
        for task, label in index.labels(voter.place).items():
            tally = counts.setdefault(task, {})
            tally[label] = tally.get(label, 0) + 1
    return {task: sorted(tally.items(), key=lambda item: -item[1]) for task, tally in counts.items()}


def built_in_corpus(root: Path, *, split: str = "test") -> LabelledCorpus:
    """Clips of a built-in corpus, see [`~data.synthetic.build_corpus`]: by default those that no pretraining sees."""
    records = load_labels(root, split=split)
    classes = [(motion, appearance) for motion in MOTIONS for appearance in APPEARANCES]
    corpus = FileCorpus(
        [str(record.path) for record in records],
        labels=[classes.index((record.motion, record.appearance)) for record in records],
        class_names=[" ".join(names) for names in classes],
    )
    labels = {task: [getattr(record, task) for record in records] for task in ("motion", "appearance")}
    return LabelledCorpus(corpus, f"built-in corpus, {split} clips", labels)


def small_corpus(root: Path, *, sampling: ClipSampling) -> LabelledCorpus:
    """A few clips of the built-in kind, rendered where there is no corpus; as long as `sampling` needs them."""
    frames = sampling.offsets(20.0)[-1] + 5
    config = CorpusConfig(num_train=1, num_test=80, num_frames=max(CorpusConfig.num_frames, frames))
    return built_in_corpus(build_corpus(root, config=config))


def open_labelled(source: str, *, max_clips: int) -> LabelledCorpus:
    """
    The clips of a data set on this machine, at most `max_clips` of them, spread evenly.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it can only be streamed, or holds no clip.
    """
    if not any(character in source for character in "*?[{") and not os.path.exists(os.path.expanduser(source)):
        raise FileNotFoundError(f"{source} is no file or folder here: give a folder of videos, an index or features")
    folder = Path(source).expanduser()
    if _is_built_in(folder):
        data = built_in_corpus(folder)
    else:
        corpus: Corpus = open_corpus(source)
        if isinstance(corpus, SequentialCorpus):
            raise ValueError(f"{source} can only be streamed: give a folder, an index or files")
        data = LabelledCorpus(corpus, folder.name or source, _label_names(corpus.labels, corpus.class_names))
    if len(data.corpus) == 0:
        raise ValueError(f"{source} holds no videos or pictures: check the folder or index")
    if len(data.corpus) <= max_clips:
        return data
    chosen = np.linspace(0, len(data.corpus) - 1, max_clips).round().astype(int)
    labels = {task: [names[index] for index in chosen] for task, names in data.labels.items()}
    name = f"{data.name}, {max_clips:,} of {len(data.corpus):,}"
    return LabelledCorpus(SubsetCorpus(data.corpus, chosen), name, labels)


def _is_built_in(folder: Path) -> bool:
    """Whether it is a complete corpus of [`~data.synthetic.build_corpus`]."""
    if not all((folder / name).is_file() for name in ("manifest.json", "labels.csv")):
        return False
    with open(folder / "labels.csv", encoding="utf-8", errors="replace") as file:
        return file.readline().strip() == "path,split,motion,appearance"


def _label_names(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, list[str]]:
    names = [
        "" if label < 0 else class_names[label] if label < len(class_names) else f"class {label}" for label in labels
    ]
    return {"class": names} if any(names) else {}


def build_index(
    model: VJEPAModel,
    data: LabelledCorpus,
    *,
    processor: VJEPAVideoProcessor,
    sampling: ClipSampling,
    folder: Path,
    batch_size: int = 8,
    progress: bool = True,
) -> ClipIndex:
    """
    Features of all clips, from `folder` where they have been written before.

    Args:
        model: the frozen encoder.
        data: the clips.
        processor: gives mean and standard deviation of the pixels.
        sampling: which frames make a clip.
        folder: gets a folder for this encoder and these clips.
        progress: show a bar.

    Raises:
        ValueError: not one clip could be read.
        TooManyBrokenVideosError: most of them could not.
    """
    made_of = [weights_hash(model.encoder), manifest_hash(data.corpus), repr(sampling), list(data.corpus.class_names)]
    made_of += [list(processor.image_mean), list(processor.image_std), model.config.crop_size]
    name = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
    place = folder / f"features-{name}"
    write_features(
        model,
        data.corpus,
        place,
        kind="time_means",
        sampling=sampling,
        processor=processor,
        dtype="float32",
        batch_size=batch_size,
        progress=progress,
    )
    return _read_index(FeatureStore(place), data, num_steps=model.config.grid_size[0])


def open_index(
    folder: str, model: VJEPAModel, *, processor: VJEPAVideoProcessor, sampling: ClipSampling, max_clips: int
) -> ClipIndex:
    """
    An index of features that [`write_features`] left in a folder.

    Raises:
        ShardError: there are none.
        FeatureError: they are of another encoder, or of other clips than the app looks at.
    """
    store = FeatureStore(folder)
    wanted = {
        "weights": weights_hash(model.encoder),
        "num_segments": 1,
        "num_views": 1,
        "crop_size": model.config.crop_size,
        "sampling": json.loads(json.dumps(vars(sampling))),
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }
    if other := [name for name, value in wanted.items() if store.settings.get(name) != value]:
        raise FeatureError(
            f"the features in {folder} differ from what the model sees in {', '.join(other)}: give --dataset the "
            "videos themselves, or features of this model, one segment and one view"
        )
    corpus = FileCorpus(list(store.paths), labels=store.labels, class_names=store.class_names)
    labels = _label_names(store.labels, store.class_names)
    data = LabelledCorpus(corpus, Path(folder).name, labels)
    return _read_index(store, data, num_steps=model.config.grid_size[0], max_clips=max_clips)


def _read_index(
    store: FeatureStore, data: LabelledCorpus, *, num_steps: int, max_clips: int | None = None
) -> ClipIndex:
    """
    Args:
        num_steps: time steps of the tokens of a clip.
        max_clips: `None` where `data` is the corpus that the store was made of; or clips to take of a store that is
            its own corpus.
    """
    number = len(store) if max_clips is None else min(max_clips, len(store))
    rows = np.unique(np.linspace(0, len(store) - 1, number).round().astype(int)).tolist()
    features = []
    for row in rows:
        values = store[row]["features"][0].float()  # one view
        if store.kind == "tokens":
            values = values.unflatten(0, (num_steps, -1)).mean(dim=1)
        features.append(values.flatten())
    places = store.index[rows] if max_clips is None else np.array(rows)
    return ClipIndex(data, places, torch.stack(features), is_pooled=store.kind == "mean")


__all__ = [
    "ClipIndex",
    "LabelledCorpus",
    "Neighbour",
    "build_index",
    "built_in_corpus",
    "open_index",
    "open_labelled",
    "small_corpus",
    "votes",
]
