"""Images of another size than the recipe's, resized before the model and outside its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import SettingError
from edgekit.recipe.tensors import Inputs, describe_all

if TYPE_CHECKING:
    import torch

# Height and width in pixels.
Size = tuple[int, int]


@dataclass(frozen=True)
class Resizing:
    """Resizes a model's images from the recipe's size (``original``) to ``size``.

    ``images``: the indices of the images among the inputs, each of shape (N, C, H, W). Others stay
    as they are.
    """

    images: tuple[int, ...]
    original: Size
    size: Size

    def __call__(self, inputs: Inputs) -> Inputs:
        """Bilinear with antialiasing, as ``edgekit_model.py`` does it on the device."""
        return tuple(
            resized_image(tensor, self.size) if index in self.images else tensor
            for index, tensor in enumerate(inputs)
        )

    def fits(self, inputs: Inputs) -> bool:
        """Whether all images have the recipe's size."""
        images = [inputs[index] for index in self.images]
        return all(image.dim() == 4 and _size_of(image) == self.original for image in images)

    @property
    def share(self) -> float:
        """The share of the pixels that is left."""
        return self.size[0] * self.size[1] / (self.original[0] * self.original[1])


def resizing_to(size: Size, example: Inputs) -> Resizing:
    """The resizing of all images that are as large as the first one.

    Raises SettingError: there is no image, or ``size`` is not smaller.
    """
    found = [index for index, tensor in enumerate(example) if _is_image(tensor)]
    if not found:
        raise SettingError(
            f"the model has no image whose size could change: its inputs are "
            f"{describe_all(example)}",
            "an image is an input of shape (N, C, height, width)",
        )
    original = _size_of(example[found[0]])
    if size == original or any(now > before for now, before in zip(size, original, strict=True)):
        raise SettingError(
            f"the input size {size_text(size)} is not smaller than that of example_inputs(), "
            f"{size_text(original)}"
        )
    images = tuple(index for index in found if _size_of(example[index]) == original)
    return Resizing(images, original, size)


def resized_image(image: torch.Tensor, size: Size) -> torch.Tensor:
    """(N, C, H, W) in ``size``, of the same type; integers are rounded."""
    import torch

    if _size_of(image) == size:
        return image
    small = torch.nn.functional.interpolate(
        image.float(), size=size, mode="bilinear", antialias=True, align_corners=False
    )
    if image.is_floating_point():
        return small.to(image.dtype)
    limits = torch.iinfo(image.dtype)
    return small.round().clamp(limits.min, limits.max).to(image.dtype)


def image_size_of(inputs: Inputs) -> Size | None:
    """The size of the first image among the inputs; None if there is none."""
    return next((_size_of(tensor) for tensor in inputs if _is_image(tensor)), None)


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _is_image(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.dim() == 4 and (tensor.is_floating_point() or tensor.dtype == torch.uint8)


def _size_of(image: torch.Tensor) -> Size:
    height, width = image.shape[-2:]
    return height, width
