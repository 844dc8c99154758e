"""How the sections of [`~study.views`] show a study of images: sheets of images in rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..analysis.feature_decoder import DecodedClips
from ..figures.images import heat_colors, paint_tokens, principal_colors, tubelet_frames
from ..figures.sheets import Tile
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor
from ..pretraining.masking import Masks

#: The columns of a sheet after the first, which is the image: titles, and the images of a test image.
Columns = tuple[Sequence[str], Callable[[int], list[Tile]]]


def plain(image: Tensor, config: VJEPAConfig) -> Tile:
    """An image, uint8 (1, 3, height, width)."""
    return Tile(tubelet_frames(image[None], config)[0, 0])


def mask_tiles(image: Tensor, masks: Masks, *, config: VJEPAConfig) -> list[Tile]:
    """The context, its other tokens white, and the image under each target (blue)."""
    (frames,) = tubelet_frames(image[None], config)
    seen = torch.zeros(config.num_patches, dtype=torch.bool)
    seen[masks.context_mask[0][0]] = True
    tiles = [Tile(_whitened(frames, ~seen, config)[0])]
    for target in masks.target_mask:
        kinds = torch.zeros(config.num_patches)
        kinds[target[0]] = 1
        tiles.append(Tile(paint_tokens(frames, kinds.view(config.grid_size), config.patch_size)[0]))
    return tiles


def feature_columns(features: Mapping[str, Tensor], config: VJEPAConfig) -> Columns:
    """Features (images, 1, cells, width) by encoder as colours: a token is a square of its patch."""
    colors = {name: principal_colors(values.flatten(1, 2))[1] for name, values in features.items()}

    def tiles(index: int) -> list[Tile]:
        return [Tile(_patches(found[index].view(*config.grid_size[1:], 3), config)) for found in colors.values()]

    return list(features), tiles


def heat_columns(
    images: Tensor, maps: Mapping[str, Tensor], *, limits: tuple[float, float], config: VJEPAConfig
) -> Columns:
    """Maps (images, 1, rows, columns) by title over the grey images."""

    def tiles(index: int) -> list[Tile]:
        (frames,) = tubelet_frames(images[index, None], config)
        values = (found[index].nan_to_num(limits[0]) for found in maps.values())
        return [Tile(heat_colors(frames, value, limits=limits)[0]) for value in values]

    return list(maps), tiles


def neighbour_columns(images: Tensor, nearest: Tensor, labels: Tensor, config: VJEPAConfig) -> Columns:
    """The nearest images (images, number); the border says whether they have the label (images,) of the query."""

    def tiles(index: int) -> list[Tile]:
        marks = ("right" if labels[other] == labels[index] else "wrong" for other in nearest[index])
        shown = tubelet_frames(images[nearest[index]], config)[:, 0]
        return [Tile(image, mark) for image, mark in zip(shown, marks, strict=True)]

    return [str(place + 1) for place in range(nearest.shape[1])], tiles


def decoded_columns(decoded: DecodedClips, *, processor: VJEPAVideoProcessor, config: VJEPAConfig) -> Columns:
    """The context, and the targets decoded from target features and from predictions; white: in neither mask."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    columns = {
        "context": (decoded.context, decoded.hidden),
        "target features": (decoded.from_targets, decoded.hidden & ~decoded.predicted),
        "predictions": (decoded.from_predictions, decoded.hidden & ~decoded.predicted),
    }

    def tiles(index: int) -> list[Tile]:
        found = []
        for clips, white in columns.values():
            image = (clips[index, 0].float() * std + mean).permute(1, 2, 0)
            found.append(Tile(torch.where(white[index, 0, :, :, None], 1.0, image)))
        return found

    return list(columns), tiles


def _patches(tokens: Tensor, config: VJEPAConfig) -> Tensor:
    """(rows, columns, 3) -> (height, width, 3): a square for each token."""
    return tokens.repeat_interleave(config.patch_size, 0).repeat_interleave(config.patch_size, 1)


def _whitened(frames: Tensor, tokens: Tensor, config: VJEPAConfig) -> Tensor:
    """Frames (1, height, width, 3) with the marked tokens (tokens,) in white."""
    white = _patches(tokens.view(*config.grid_size[1:], 1), config)
    return torch.where(white, 1.0, frames)
