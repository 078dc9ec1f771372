"""Folders of images as a model's inputs, for recipes. Needs Pillow; torch is imported late."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekit.errors import MissingExtraError, RecipeError
from edgekit.recipe.tensors import Inputs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
# Ratio of the shorter side to the crop: 256 to 224, as usual for networks on ImageNet.
RESIZE_TO_CROP = 8 / 7


@dataclass(frozen=True)
class Preprocessing:
    """The steps for each image: resize the shorter side to ``resize`` pixels, crop the centre to
    ``size`` x ``size``, and normalise red, green and blue: (pixel / 255 - mean) / std.
    """

    size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


@dataclass(frozen=True, repr=False)
class Images(Sequence[Inputs]):
    """A lazy sequence of images: each item is a tuple of one float32 tensor (1, 3, size, size).

    A slice is lazy, too, and has the paths and labels of its images. ``labels``: indices into
    ``classes``, the sorted names of the sub-folders; both are None without sub-folders.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Inputs: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Inputs | Images:
        """An image, or a slice. Raises RecipeError if the image's file cannot be read."""
        if isinstance(index, slice):
            return self._subset(range(len(self))[index])
        return read_image(self.paths[index], self.preprocessing)

    def split(self, every: int = 10) -> tuple[Images, Images]:
        """Split into one image of ``every`` (the first, the eleventh, ...), for calibration, and
        the others, for evaluation.

        Raises RecipeError if ``every`` is below 2, or one of the two would be empty.
        """
        if every < 2 or len(self) < 2:
            raise RecipeError(
                f"split(every={every}) of {len(self)} images gives an empty part",
                "use at least two images, and every=2 or more",
            )
        others = [index for index in range(len(self)) if index % every]
        return self[::every], self._subset(others)

    def _subset(self, indices: Sequence[int]) -> Images:
        paths = tuple(self.paths[index] for index in indices)
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices)
        return replace(self, paths=paths, labels=labels)


def images(
    folder: str | Path,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize: int | None = None,
    interpolation: str = "bilinear",
) -> Images:
    """The images in ``folder``, or in its sub-folders, one for each class.

    They are sorted by sub-folder and name, and decoded only when used. Hidden files and files
    without an image's suffix are skipped.

    Each image is converted to RGB. Its shorter side is resized to ``resize`` pixels (by default 8/7
    of ``size``, 256 for 224) with Pillow's ``interpolation`` (nearest, bilinear, bicubic, lanczos).
    The centre is cropped to ``size`` x ``size`` and normalised, (pixel / 255 - mean) / std, with a
    ``mean`` and ``std`` for each of red, green and blue. This is what torchvision's Resize,
    CenterCrop and Normalize do. If a margin is odd, its larger half is cut off right or below;
    CenterCrop may cut it off left or above. An orientation in EXIF is not applied.

    Raises RecipeError for a missing folder, no images, images both in it and in sub-folders, or a
    wrong size, mean or std; MissingExtraError if Pillow is not installed.
    """
    preprocessing = _check_arguments(size, mean, std, resize, interpolation)
    _pillow()
    root = Path(folder)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise RecipeError(
            f"the folder of images {root} {what}",
            f"relative paths start at {Path.cwd()}; Path(__file__).parent is the recipe's folder",
        )
    flat, by_class = _files_of(root)
    if flat and any(by_class.values()):
        raise RecipeError(
            f"{root} has images both directly in it ({flat[0].name}) and in sub-folders",
            "put all images into sub-folders, one for each class, or none of them",
        )
    if flat:
        return Images(tuple(flat), None, None, preprocessing)
    if not any(by_class.values()):
        raise RecipeError(
            f"there is no image in {root} or its sub-folders",
            f"images are files with the suffixes {', '.join(SUFFIXES)}",
        )
    paths = tuple(path for files in by_class.values() for path in files)
    labels = tuple(index for index, files in enumerate(by_class.values()) for _ in files)
    return Images(paths, labels, tuple(by_class), preprocessing)


def read_image(path: Path, preprocessing: Preprocessing) -> Inputs:
    """One preprocessed image, float32 (1, 3, size, size).

    Raises RecipeError if the file is missing or damaged.
    """
    import torch

    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            pixels = _square(image.convert("RGB"), preprocessing)
    except Exception as error:  # a decoder may raise any error for a damaged file
        raise RecipeError(
            f"the image {path} cannot be read: {error}", "repair it, or remove it from the folder"
        ) from None
    return (torch.from_numpy(_normalise(pixels, preprocessing)[None]),)


def data_path(name: str) -> Path:
    """``name`` in the folder EDGEKIT_DATA, with weights and images that edgekit does not ship.

    Raises RecipeError if the variable is not set, or the folder lacks ``name``.
    """
    root = os.environ.get("EDGEKIT_DATA")
    hint = f"set EDGEKIT_DATA to the folder with {name} (docs/examples.md describes it)"
    if not root:
        raise RecipeError(f"{name} cannot be found: EDGEKIT_DATA is not set", hint)
    path = Path(root) / name
    if not path.exists():
        raise RecipeError(f"there is no {name} in EDGEKIT_DATA, {root}", hint)
    return path


def _files_of(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images directly in ``root``, and sub-folder's name -> all images below it."""
    entries = sorted(path for path in root.iterdir() if path.name[0] != ".")
    flat = [path for path in entries if _is_image(path)]
    folders = [path for path in entries if path.is_dir()]
    return flat, {path.name: list(_images_below(path)) for path in folders}


def _images_below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name[0] != "." and path.is_dir():
            yield from _images_below(path)
        elif _is_image(path):
            yield path


def _is_image(path: Path) -> bool:
    return path.name[0] != "." and path.suffix.lower() in SUFFIXES and path.is_file()


def _square(image: Any, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre crop: uint8 (size, size, 3)."""
    import numpy as np

    short, size = preprocessing.resize, preprocessing.size
    width, height = image.size
    if width <= height:
        resized = (short, short * height // width)
    else:
        resized = (short * width // height, short)
    if resized != image.size:
        method = getattr(_pillow().Resampling, preprocessing.interpolation.upper())
        image = image.resize(resized, method)
    left, top = (resized[0] - size) // 2, (resized[1] - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Normalised pixels, contiguous float32 (3, size, size)."""
    import numpy as np

    mean = np.array(preprocessing.mean, np.float32)
    std = np.array(preprocessing.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _check_arguments(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    resize: int | None,
    interpolation: str,
) -> Preprocessing:
    if not _is_count(size):
        raise RecipeError(f"images(): size must be a whole number of pixels, not {size!r}")
    short = round(size * RESIZE_TO_CROP) if resize is None else resize
    if not _is_count(short) or short < size:
        raise RecipeError(
            f"images(): resize must be a whole number of pixels, {size} (the size) or more, "
            f"not {resize!r}"
        )
    if interpolation not in INTERPOLATIONS:
        raise RecipeError(
            f"images(): interpolation must be one of {', '.join(INTERPOLATIONS)}, "
            f"not {interpolation!r}"
        )
    for name, values in (("mean", mean), ("std", std)):
        if not _are_of_pixels(values) or (name == "std" and min(values) == 0):
            raise RecipeError(
                f"images(): {name} must be three numbers for red, green and blue, not {values!r}",
                "pixels are divided by 255 first, so means are from 0 to 1, and stds above 0 up to "
                "1",
            )
    return Preprocessing(size, short, tuple(mean), tuple(std), interpolation)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are_of_pixels(values: Sequence[float]) -> bool:
    try:
        return len(values) == 3 and all(
            math.isfinite(value) and 0 <= value <= 1 for value in values
        )
    except TypeError:
        return False


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("reading images (Pillow)", "executorch") from None
    return Image
