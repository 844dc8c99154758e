"""From pictures to `pixel_values`: [`VJEPAImageProcessor`], with the steps and settings of the processor of videos."""

import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension, is_pil_image, load_image
from transformers.processing_utils import ImagesKwargs, Unpack

from .media_files import rgb_pixels
from .video_processing_vjepa import VJEPAProcessorMixin


def _as_arrays(images: Any) -> list[np.ndarray | torch.Tensor]:
    """Every accepted form of pictures -> arrays of rank 4, clips of one frame; see [`VJEPAImageProcessor`]."""
    if isinstance(images, str):
        # `load_image` converts to RGB, and so loses grey files of 16 bits.
        images = ImageOps.exif_transpose(Image.open(images)) if os.path.isfile(images) else load_image(images)
    if is_pil_image(images):
        return [rgb_pixels(images)[None]]
    if isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim not in (3, 4):
            raise ValueError(
                f"a picture of shape {tuple(images.shape)} has rank {images.ndim}: pass (channels, height, width), "
                "(height, width, channels) (rank 3), or a batch of them (rank 4)"
            )
        # Slices, not copies: the resize depends on the layout of the memory, and a video keeps it too.
        return [images[i : i + 1] for i in range(len(images))] if images.ndim == 4 else [images[None]]
    if isinstance(images, (list, tuple)) and images:
        return [array for item in images for array in _as_arrays(item)]
    what = "an empty list" if isinstance(images, (list, tuple)) else f"a {type(images).__name__}"
    raise ValueError(
        f"{what} is no picture: pass arrays, tensors, PIL pictures, paths or URLs as strings, or lists of them"
    )


class VJEPAImageProcessor(VJEPAProcessorMixin, TorchvisionBackend):
    r"""
    Pictures to `pixel_values` of shape (batch, channels, crop, crop), float32; the model repeats each to a clip.

    The published evaluation: short side to crop x 256 / 224 (bilinear, no antialiasing), centre crop, values to
    [0, 1], ImageNet mean and standard deviation. The values are those that [`VJEPAVideoProcessor`] gives for the
    picture as a clip of one frame.

    **Pictures**: one or a batch, as numpy arrays, torch tensors, PIL pictures, file paths or URLs. Rank 4 is a batch
    of pictures. Channels come first or last; with `do_convert_rgb` grey and transparent arrays become RGB (PIL
    pictures always do).

    **Values**: uint8, multiplied by `rescale_factor`; or floats, which are taken to lie in [0, 1] already,
    and refused if they do not. `do_rescale=False` takes any values as they are.

    Args:
        crop_size (`int` or `dict`, defaults to 224): side of the square crop, in pixels. A new value also
            moves `size`, here, in `from_pretrained` and in a call, unless that is given with it.
        size (`int` or `dict`, defaults to `{"shortest_edge": 256}`): short side before the centre crop.
        image_mean, image_std (default to the ImageNet values): one number per channel, on the scale 0 to 1.
        do_resize, do_center_crop, do_rescale, do_normalize, do_convert_rgb (`bool`, default to `True`): steps
            to run. With neither `do_rescale` nor `do_normalize`, uint8 pictures stay uint8.
        rescale_factor (`float`, defaults to 1 / 255): factor for uint8 pictures.

    Only in calls: `return_tensors` and the common arguments of image processors.

    Raises:
        ValueError: a picture or a setting that does not fit the above.
        TypeError: an argument that does not exist, in a call.
    """

    def preprocess(self, images: Any, **kwargs: Unpack[ImagesKwargs]) -> BatchFeature:
        """The call itself; see the class."""
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
        return self._prepare_clips(
            _as_arrays(images), do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device
        )

    def _preprocess(
        self, images: list[torch.Tensor], return_tensors: str | None = None, **settings: Any
    ) -> BatchFeature:
        pixel_values = []
        for picture in images:
            self._check_floats(picture, settings=settings)
            cropped = self._evaluation_crop(picture, settings=settings)
            pixel_values.append(self._values(cropped, settings=settings)[0])
        shapes = sorted({tuple(picture.shape) for picture in pixel_values})
        if return_tensors is not None and len(shapes) > 1:
            raise ValueError(
                f"pictures of shapes {shapes[:3]} do not make a batch: leave `do_center_crop` on; without "
                "`return_tensors` they come as a list"
            )
        return BatchFeature(data={"pixel_values": pixel_values}, tensor_type=return_tensors)


__all__ = ["VJEPAImageProcessor"]
