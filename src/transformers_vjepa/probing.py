"""Frozen evaluation: what can be read off the features of an encoder that is not trained further."""

from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .decoding import ClipSampling
from .modeling_vjepa import VJEPAModel
from .streaming import iterate_clips
from .video_processing_vjepa import VJEPAVideoProcessor, normalize_clips


@torch.inference_mode()
def extract_time_means(
    model: VJEPAModel,
    source: str,
    *,
    sampling: ClipSampling,
    processor: VJEPAVideoProcessor | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[torch.Tensor, list[str]]:
    """
    Features of the centred clip of every video of a local corpus: the encoder tokens averaged over space at
    each time step, so that the order of events stays readable.

    Args:
        model: the frozen encoder; runs on its own device.
        source: a folder or index, as [`~streaming.iterate_clips`] takes it.
        sampling: which frames make a clip.
        processor: gives mean and standard deviation of the pixels; ImageNet's by default.

    Returns:
        float32 (videos, time steps * hidden_size) on the CPU, and the path of each video.
    """
    config = model.config
    processor = VJEPAVideoProcessor(crop_size=config.crop_size) if processor is None else processor
    clips = iterate_clips(source, config=config, sampling=sampling, num_workers=num_workers, batch_size=batch_size)
    loader = DataLoader(clips, batch_size=batch_size, num_workers=num_workers)
    features, paths = [], []
    model.eval()
    for batch in tqdm(loader, desc="features", unit="batch", disable=not progress):
        pixels = batch["pixel_values_videos"].to(model.device)
        pixels = normalize_clips(pixels, mean=processor.image_mean, std=processor.image_std)
        tokens = model.get_vision_features(pixels)
        steps = tokens.unflatten(1, (config.grid_size[0], -1)).mean(dim=2)
        features.append(steps.flatten(1).float().cpu())
        paths += batch["path"]
    return torch.cat(features), paths


def fit_read_out(kind: Literal["neighbours", "ridge"], features: torch.Tensor, labels: torch.Tensor) -> Any:
    """
    A classifier of frozen features that needs no training loop, so that no budget or learning rate can make an
    encoder look better or worse than it is. Features are standardised first.

    Args:
        kind: `"neighbours"`, a vote of the 10 nearest by cosine, weighted by their nearness; or `"ridge"`, linear
            regression on the classes with the penalty chosen by leave-one-out error.
        features: (clips, width).
        labels: (clips,) class indices.

    Returns:
        A fitted scikit-learn pipeline: `predict(features)` gives class indices.

    Raises:
        ValueError: another kind.
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import RidgeClassifierCV
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ImportError("read-outs need scikit-learn: pip install transformers_vjepa[probe]") from error
    classifiers = {
        "neighbours": lambda: KNeighborsClassifier(n_neighbors=10, metric="cosine", weights="distance"),
        "ridge": lambda: RidgeClassifierCV(alphas=[10.0**power for power in range(-2, 6)]),
    }
    if kind not in classifiers:
        raise ValueError(f"kind={kind!r} is no read-out: choose one of {', '.join(classifiers)}")
    return make_pipeline(StandardScaler(), classifiers[kind]()).fit(features.numpy(), labels.numpy())


__all__ = ["extract_time_means", "fit_read_out"]
