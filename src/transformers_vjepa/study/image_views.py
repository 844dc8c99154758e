"""How the sections of [`~study.views`] show a study of images: sheets of images in rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..analysis.feature_decoder import DecodedClips
from ..figures.images import heat_colors, principal_colors, tubelet_frames
from ..figures.sheets import BLANK, Tile, enlarge_tokens
from ..models.vjepa.configuration_vjepa import VJEPAConfig
from ..models.vjepa.video_processing_vjepa import VJEPAVideoProcessor

#: The columns of a sheet after the first, which is the image: titles, and the images of a test image.
Columns = tuple[Sequence[str], Callable[[int], list[Tile]]]


def feature_columns(features: Mapping[str, Tensor], config: VJEPAConfig) -> Columns:
    """Features (images, 1, cells, width) by encoder as colours: a token is a square of its patch."""
    colors = {name: principal_colors(values.flatten(1, 2))[1] for name, values in features.items()}

    def tiles(index: int) -> list[Tile]:
        return [Tile(enlarge_tokens(found[index].view(*config.grid_size[1:], 3), config)) for found in colors.values()]

    return list(features), tiles


def heat_columns(
    images: Tensor, maps: Mapping[str, Tensor], *, limits: tuple[float, float], config: VJEPAConfig
) -> Columns:
    """Maps (images, 1, rows, columns) by title over the grey images; tokens with NaN are blank."""

    def tiles(index: int) -> list[Tile]:
        (frames,) = tubelet_frames(images[index, None], config)
        found = []
        for values in (by_image[index] for by_image in maps.values()):
            heat = heat_colors(frames, values.nan_to_num(limits[0]), limits=limits)[0]
            blank = enlarge_tokens(values.isnan().permute(1, 2, 0), config)
            found.append(Tile(torch.where(blank, BLANK, heat)))
        return found

    return list(maps), tiles


def neighbour_columns(images: Tensor, nearest: Tensor, labels: Tensor, config: VJEPAConfig) -> Columns:
    """The nearest images (images, number); the border says whether they have the label (images,) of the query."""

    def tiles(index: int) -> list[Tile]:
        marks = ("right" if labels[other] == labels[index] else "wrong" for other in nearest[index])
        shown = tubelet_frames(images[nearest[index]], config)[:, 0]
        return [Tile(image, mark) for image, mark in zip(shown, marks, strict=True)]

    return [str(place + 1) for place in range(nearest.shape[1])], tiles


def decoded_columns(decoded: DecodedClips, *, processor: VJEPAVideoProcessor, config: VJEPAConfig) -> Columns:
    """The context, and the targets decoded from target features and from predictions; blank: in neither mask."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    columns = {
        "context": (decoded.context, decoded.hidden),
        "target features": (decoded.from_targets, decoded.hidden & ~decoded.predicted),
        "predictions": (decoded.from_predictions, decoded.hidden & ~decoded.predicted),
    }

    def tiles(index: int) -> list[Tile]:
        found = []
        for clips, blank in columns.values():
            image = (clips[index, 0].float() * std + mean).permute(1, 2, 0)
            found.append(Tile(torch.where(blank[index, 0, :, :, None], BLANK, image)))
        return found

    return list(columns), tiles
