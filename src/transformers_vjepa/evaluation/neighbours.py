"""
Evaluation without training: the nearest training clips vote for the class of a clip.

    print(evaluate_neighbours(Arguments(ModelArguments(mode="knn", model=...), DataArguments(...), training)))
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..command_line.parsing import check_processes
from ..data.labels import model_class_names
from ..data.splits import SplitError
from ..safety.atomic_files import write_text_atomically
from ..safety.sanitizing import json_text
from ..training.checkpoints import resolve_checkpoint
from .arguments import Arguments
from .features import FeatureStore
from .reports import Predictions, check_classes, kind_of_clips, split_lines, training_record, write_prediction_report
from .setup import check_packages, prepare, store_features
from .shards import describe_broken


def neighbour_probabilities(
    known: np.ndarray,
    labels: np.ndarray,
    features: np.ndarray,
    *,
    num_classes: int,
    num_neighbors: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """
    Shares of the classes in a weighted vote of the nearest features (arXiv 1805.01978, section 3.4; DINO, arXiv
    2104.14294, appendix F.1): each of the `num_neighbors` most similar features votes for its class with the weight
    exp(cosine similarity / temperature).

    Args:
        known: float (training clips, width).
        labels: int64 (training clips,), from 0 to `num_classes` - 1.
        features: float (clips, width).
        num_neighbors: at least 1; with fewer training clips, all of them vote.
        temperature: above 0.

    Returns:
        float32 (clips, num_classes); each row has the sum 1.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.neighbors import KNeighborsClassifier
    except ImportError as error:
        raise ImportError("nearest neighbours need scikit-learn: pip install transformers_vjepa[probe]") from error

    def weights(distances: np.ndarray) -> np.ndarray:
        # Relative to the nearest one: the shares are the same, and low temperatures do not overflow.
        return np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)

    vote = KNeighborsClassifier(min(num_neighbors, len(known)), metric="cosine", weights=weights)
    vote.fit(known, labels)
    shares = np.zeros((len(features), num_classes), dtype=np.float32)
    shares[:, vote.classes_] = vote.predict_proba(features)
    return shares


def evaluate_neighbours(arguments: Arguments) -> str | None:
    """
    Stores the mean features of all splits, lets the training clips vote for the validation and test clips, and writes
    `results.json` and the predictions to the output folder. Features that are there are not computed again. The
    features of the training clips are in memory: 4 bytes for each clip and channel.

    Returns:
        A summary for the user; `None` on all processes but the main one.

    Raises:
        ValueError, OSError: as for [`~evaluation.setup.build`].
    """
    model, _, training = arguments
    check_processes(training.world_size)
    check_packages("sklearn", "matplotlib")
    resolve_checkpoint(training.output_dir, None, token=training.hub_token)  # refuses the folder of a training run
    parts = prepare(arguments, checkpoint=None)
    if not parts.corpora.keys() & {"validation", "test"}:
        raise SplitError("no validation and no test clips, so there is nothing to classify: give some")
    stores = store_features(
        parts.classifier.vjepa,
        parts.corpora,
        parts.arguments,
        geometry=parts.geometry,
        processor=parts.processor,
    )
    if training.process_index != 0:
        return None
    check_classes(stores["train"], parts.classifier.config, parts.corpora["train"].labels.tolist())
    folder = Path(training.output_dir)
    names = model_class_names(parts.classifier.config)
    known, labels = features_of(stores["train"]), stores["train"].labels
    results: dict[str, Any] = {
        "chosen": {"num_neighbors": model.num_neighbors, "knn_temperature": model.knn_temperature},
        **training_record(parts.corpora["train"], stores["train"], parts.record),
    }
    for name in ("validation", "test"):
        if name in stores:
            shares = neighbour_probabilities(
                known,
                labels,
                features_of(stores[name]),
                num_classes=len(names),
                num_neighbors=model.num_neighbors,
                temperature=model.knn_temperature,
            )
            results[name] = write_prediction_report(
                [Predictions(stores[name].paths, stores[name].labels, shares)],
                folder / name,
                class_names=names,
                broken=describe_broken(stores[name].broken),
                details={"manifest": parts.record["manifests"][name]},
            )
    write_text_atomically(folder / "results.json", json_text({**results, **parts.record}))
    return _summary(results, folder, kind=kind_of_clips(parts.corpora["train"]))


def features_of(store: FeatureStore) -> np.ndarray:
    """All features of a store, float32 (clips, width); of several views their mean."""
    return torch.stack([store[index]["features"].float().mean(dim=0) for index in range(len(store))]).numpy()


def _summary(results: Mapping[str, Any], folder: Path, *, kind: str) -> str:
    chosen = results["chosen"]
    votes = f"{chosen['num_neighbors']} nearest neighbours, temperature {chosen['knn_temperature']:g}"
    lines = ["", f"vote:       {votes}", *split_lines(results, kind=kind), f"results:    {folder}/results.json"]
    return "\n".join(lines)
