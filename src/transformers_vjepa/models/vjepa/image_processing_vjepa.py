"""From images to `pixel_values`: [`VJEPAImageProcessor`], with the steps and settings of the video processor."""

import base64
import binascii
import os
from typing import Any

import numpy as np
import torch
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, is_pil_image
from transformers.processing_utils import ImagesKwargs, Unpack

from .media_files import read_address, read_image, rgb_pixels
from .video_processing_vjepa import VJEPAProcessorMixin


def _read(source: str) -> np.ndarray:
    """
    The image in a file, at an address, or in base64: uint8 (height, width, 3). `load_image` of `transformers` has no
    bounds, turns 16-bit grey files white, and shows what lies below transparent pixels.
    """
    if os.path.isfile(source):
        return read_image(source, source)
    if source.startswith(("http://", "https://")):
        return read_image(read_address(source, name=source), source)
    data = source.partition(",")[2] if source.startswith("data:image/") else source
    try:
        return read_image(base64.b64decode("".join(data.split()), validate=True), "<base64>")
    except binascii.Error as error:
        raise ValueError(
            f"{source[:80]!r} is not an image: pass the path of a file, an address (http, https), or base64"
        ) from error


def _as_arrays(images: Any) -> list[np.ndarray | torch.Tensor]:
    """Images, in any form that [`VJEPAImageProcessor`] takes, as arrays of rank 4: clips of one frame."""
    if isinstance(images, str):
        return [_read(images)[None]]
    if is_pil_image(images):
        return [rgb_pixels(images)[None]]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim not in (3, 4):
            raise ValueError(
                f"an image of shape {tuple(images.shape)} has rank {images.ndim}: pass (channels, height, width), "
                "(height, width, channels) (rank 3), or a batch of them (rank 4)"
            )
        # Slices, not copies: the resize depends on the memory layout, which videos keep too.
        return [images[i : i + 1] for i in range(len(images))] if images.ndim == 4 else [images[None]]
    if isinstance(images, (list, tuple)) and images:
        return [array for item in images for array in _as_arrays(item)]
    given = "an empty list" if isinstance(images, (list, tuple)) else f"a {type(images).__name__}"
    raise ValueError(
        f"{given} is not an image: pass arrays, tensors, PIL images, paths or URLs as strings, or lists of them"
    )


class VJEPAImageProcessor(VJEPAProcessorMixin, TorchvisionBackend):
    r"""
    Images to `pixel_values` of shape (batch, channels, crop, crop), float32. The model repeats each image to a clip.

    The steps are those of the published evaluation. Values, settings (`crop_size`, `size`, `image_mean`, `image_std`,
    `do_resize`, `do_center_crop`, `do_rescale`, `do_normalize`, `do_convert_rgb`, `rescale_factor`) and their defaults
    are those of [`VJEPAVideoProcessor`] for clips of one frame.

    **Images**: one image or a batch, as numpy arrays, torch tensors, PIL images, file paths or URLs. Rank 4 is a batch
    of images. Channels come first or last.

    Only in calls: `return_tensors` and the common arguments of image processors.

    Raises:
        ValueError: an image or a setting that does not fit the description above.
        TypeError: a call with an unknown argument.

    Examples:

    ```python
    import torch
    from transformers_vjepa import VJEPAImageProcessor

    processor = VJEPAImageProcessor(crop_size=64)
    images = torch.randint(0, 256, (2, 3, 72, 96), dtype=torch.uint8)
    assert processor(images, return_tensors="pt")["pixel_values"].shape == (2, 3, 64, 64)
    ```
    """

    def preprocess(self, images: Any, **kwargs: Unpack[ImagesKwargs]) -> BatchFeature:
        """Implements the call; see the class."""
        return super().preprocess(images, **self._given(kwargs))

    def _prepare_image_like_inputs(
        self,
        images: Any,
        *,
        do_convert_rgb: bool | None,
        input_data_format: str | ChannelDimension | None,
        device: str | torch.device | None,
        **settings: Any,
    ) -> list[torch.Tensor]:
        return self._prepare_input_videos(_as_arrays(images), do_convert_rgb, input_data_format, device)

    def _preprocess(
        self, images: list[torch.Tensor], return_tensors: str | None = None, **settings: Any
    ) -> BatchFeature:
        pixel_values = []
        for image in images:
            self._check_floats(image, settings=settings)
            cropped = self._evaluation_crop(image, settings=settings)
            pixel_values.append(self._values(cropped, settings=settings)[0])
        return self._as_batch("pixel_values", pixel_values, return_tensors, remedy="leave `do_center_crop` on")


__all__ = ["VJEPAImageProcessor"]
