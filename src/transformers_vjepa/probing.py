"""Frozen evaluation: what can be read off the features of an encoder that is not trained further."""

from collections.abc import Sequence

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


def knn_predict(
    train: torch.Tensor, labels: Sequence[int] | torch.Tensor, test: torch.Tensor, *, k: int = 10
) -> torch.Tensor:
    """
    Labels by a vote of the `k` nearest training features, weighted by their cosine similarity.

    Each feature is standardised with the mean and standard deviation of `train` first.

    Args:
        train: (n, width). labels: n class indices >= 0. test: (m, width).
        k: neighbours, between 1 and n.

    Returns:
        int64 (m,).

    Raises:
        ValueError: `k` out of range, or as many labels as features are not given.
    """
    labels = torch.as_tensor(labels)
    if not 1 <= k <= len(train):
        raise ValueError(f"k={k} must lie in [1, {len(train)}], the number of training features")
    if len(labels) != len(train):
        raise ValueError(f"{len(labels)} labels for {len(train)} training features: give one each")
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    train, test = (torch.nn.functional.normalize((part - mean) / std, dim=1) for part in (train, test))
    similarity, neighbours = (test @ train.T).topk(k, dim=1)
    votes = torch.zeros(len(test), int(labels.max()) + 1)
    # A neighbour on the opposite side must not count against its class.
    votes.scatter_add_(1, labels[neighbours], similarity.clamp_min(0))
    return votes.argmax(dim=1)


__all__ = ["extract_time_means", "knn_predict"]
