"""Folders of images as inputs, and top-1, as recipes use them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from edgekit.data import data_path, images  # noqa: E402
from edgekit.errors import MissingExtraError, RecipeError  # noqa: E402
from edgekit.metrics import top1  # noqa: E402

PLAIN = {"size": 8, "mean": (0, 0, 0), "std": (1, 1, 1), "resize": 8}


def paint(path, width: int = 8, height: int = 8, colour=(255, 0, 0), mode: str = "RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).convert(mode).save(path)
    return path


# -- what images() gives


def test_shape_type_and_normalisation(tmp_path) -> None:
    paint(tmp_path / "red.png")
    (image,) = images(tmp_path, 8, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.25), resize=8)[0]
    assert image.dtype == torch.float32 and image.shape == (1, 3, 8, 8)
    assert image.is_contiguous()
    assert image[0, :, 4, 4].tolist() == [1.0, -0.5, 0.0]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode) -> None:
    suffix = ".jpg" if mode == "CMYK" else ".png"
    paint(tmp_path / f"image{suffix}", colour=(255, 255, 255), mode=mode)
    (image,) = images(tmp_path, **PLAIN)[0]
    assert image.shape == (1, 3, 8, 8) and image.min() > 0.95


def test_sub_folders_are_classes_in_the_order_of_their_names(tmp_path) -> None:
    for name in (
        "b/2.png",
        "b/1.JPG",
        "a-c/x.png",
        "a/deeper/y.webp",
        "a/.hidden.png",
        ".git/z.png",
    ):
        paint(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no image")
    found = images(tmp_path, **PLAIN)
    names = [path.relative_to(tmp_path).as_posix() for path in found.paths]
    assert names == ["a/deeper/y.webp", "a-c/x.png", "b/1.JPG", "b/2.png"]
    assert found.classes == ("a", "a-c", "b", "empty")
    assert found.labels == (0, 1, 2, 2)


def test_a_flat_folder_has_no_labels(tmp_path) -> None:
    paint(tmp_path / "2.png")
    paint(tmp_path / "1.png")
    found = images(tmp_path, **PLAIN)
    assert [path.name for path in found.paths] == ["1.png", "2.png"]
    assert found.labels is None and found.classes is None


def test_nothing_is_read_before_it_is_asked_for(tmp_path) -> None:
    for index in range(25):
        (tmp_path / "class").mkdir(exist_ok=True)
        (tmp_path / "class" / f"{index:02}.png").write_bytes(b"")
    found = images(tmp_path, **PLAIN)
    part = found[1:24:2][-2:]
    assert [path.stem for path in part.paths] == ["21", "23"] and part.labels == (0, 0)
    every, others = found.split(every=10)
    assert [path.stem for path in every.paths] == ["00", "10", "20"]
    assert len(others) == 22 and others.labels == (0,) * 22
    assert not set(every.paths) & set(others.paths)


def test_it_is_a_sequence(tmp_path) -> None:
    for index in range(3):
        paint(tmp_path / f"{index}.png", colour=(index, 0, 0))
    found = images(tmp_path, **PLAIN)
    reds = [round(float(image[0, 0, 0, 0]) * 255) for (image,) in found]
    assert reds == [0, 1, 2]
    assert torch.equal(found[-1][0], found[2][0])
    with pytest.raises(IndexError):
        found[3]


@pytest.mark.parametrize(("width", "height"), [(20, 10), (10, 20), (31, 10), (10, 10), (1, 5)])
def test_shorter_side_is_resized_and_the_centre_cropped(tmp_path, width, height) -> None:
    ramp = np.linspace(0, 255, width * height, dtype=np.uint8).reshape(height, width)
    Image.fromarray(np.stack([ramp] * 3, -1)).save(tmp_path / "ramp.png")
    (image,) = images(tmp_path, 8, (0, 0, 0), (1, 1, 1), resize=10)[0]
    scale = 10 / min(width, height)
    wide, high = int(width * scale), int(height * scale)
    with Image.open(tmp_path / "ramp.png") as source:
        whole = np.asarray(source.resize((wide, high), Image.Resampling.BILINEAR))
    left, top = (wide - 8) // 2, (high - 8) // 2
    expected = whole[top : top + 8, left : left + 8].transpose(2, 0, 1) / np.float32(255)
    assert np.allclose(image[0].numpy(), expected, atol=1e-6)


def test_resize_and_interpolation_may_be_chosen(tmp_path) -> None:
    paint(tmp_path / "wide.png", 300, 200)
    assert images(tmp_path, 224, (0, 0, 0), (1, 1, 1)).preprocessing.resize == 256
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / "noise.png")
    results = [
        images(tmp_path, **PLAIN, interpolation=name)[0][0]
        for name in ("nearest", "bilinear", "bicubic", "lanczos")
    ]
    assert all(not torch.equal(results[0], other) for other in results[1:])


# -- what goes wrong


def refused(*parts: str):
    return pytest.raises(RecipeError, match="(?s)" + ".*".join(parts))


def test_folders_without_images(tmp_path) -> None:
    with refused("nowhere", "does not exist"):
        images(tmp_path / "nowhere", **PLAIN)
    with refused("no image in"):
        images(tmp_path, **PLAIN)
    file = paint(tmp_path / "one.png")
    with refused("one.png", "not a folder"):
        images(file, **PLAIN)
    paint(tmp_path / "class" / "two.png")
    with refused("one.png", "sub-folders"):
        images(tmp_path, **PLAIN)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_a_damaged_image_is_named(tmp_path, content) -> None:
    paint(tmp_path / "1-good.png")
    bad = paint(tmp_path / "2-bad.jpg", 64, 64)
    bad.write_bytes(bad.read_bytes()[:300] if content == "cut" else content)
    found = images(tmp_path, **PLAIN)
    assert found[0]
    with refused("2-bad.jpg", "cannot be read"):
        found[1]


def test_an_image_that_is_gone_is_named(tmp_path) -> None:
    path = paint(tmp_path / "gone.png")
    found = images(tmp_path, **PLAIN)
    path.unlink()
    with refused("gone.png"):
        found[0]


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"size": 0}, "size"),
        ({"size": 8.0}, "size"),
        ({"size": True}, "size"),
        ({"resize": 7}, "resize"),
        ({"mean": (0.5,)}, "mean"),
        ({"mean": 0.5}, "mean"),
        ({"mean": (123.7, 116.3, 103.5)}, "mean"),
        ({"mean": (float("nan"), 0, 0)}, "mean"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"std": (0.2, -0.1, 0.2)}, "std"),
        ({"std": ("a", "b", "c")}, "std"),
        ({"interpolation": "cubic"}, "interpolation"),
    ],
)
def test_wrong_preprocessing(tmp_path, wrong, part) -> None:
    paint(tmp_path / "one.png")
    with refused(part, "not"):
        images(tmp_path, **(PLAIN | wrong))


def test_too_few_images_to_split(tmp_path) -> None:
    paint(tmp_path / "one.png")
    with refused("of 1 images"):
        images(tmp_path, **PLAIN).split()
    paint(tmp_path / "two.png")
    with refused("every=1"):
        images(tmp_path, **PLAIN).split(every=1)


def test_without_pillow(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match="Pillow"):
        images(tmp_path, **PLAIN)


def test_data_of_the_examples(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGEKIT_DATA", "")
    with refused("net/net.pt", "EDGEKIT_DATA is not set"):
        data_path("net/net.pt")
    monkeypatch.setenv("EDGEKIT_DATA", str(tmp_path))
    with pytest.raises(RecipeError, match=r"there is no net/net\.pt") as caught:
        data_path("net/net.pt")
    assert "EDGEKIT_DATA" in caught.value.hint and "docs/examples.md" in caught.value.hint
    (tmp_path / "net").mkdir()
    assert data_path("net") == tmp_path / "net"


# -- top1


def same(scores: torch.Tensor) -> torch.Tensor:
    return scores


def test_top1_in_points_whatever_the_batches() -> None:
    scores = torch.eye(4)
    for batches in (scores.split(1), scores.split(3), [(part,) for part in scores.split(2)]):
        assert top1(same, batches, [0, 1, 2, 0]) == 75.0
    assert top1(same, iter([scores]), torch.tensor([3, 2, 1, 0])) == 0.0


def test_top1_holds_one_batch_at_a_time() -> None:
    asked = []

    def inputs():
        for index in range(3):
            assert len(asked) == index  # the one before was judged before this one is read
            yield torch.eye(2)

    def predict(batch):
        asked.append(batch)
        return batch

    assert top1(predict, inputs(), [0, 1] * 3) == 100.0


def test_top1_refuses_what_cannot_be_compared() -> None:
    with refused("needs labels"):
        top1(same, [torch.eye(2)], None)
    with refused("1 labels, but more inputs"):
        top1(same, [torch.eye(2)], [0])
    with refused("3 labels, but 2 inputs"):
        top1(same, [torch.eye(2)], [0, 1, 0])
    with refused("0 labels, but 0 inputs"):
        top1(same, [], [])
    with refused("label 1 is 2", "2 classes"):
        top1(same, [torch.eye(2)], [0, 2])
    with refused("label 2 is -1"):
        top1(same, torch.eye(3).split(1), [0, 1, -1])
    with refused("not a dict"):
        top1(lambda x: {"scores": x}, [torch.eye(2)], [0, 1])
    with refused("shape", r"\[2, 2, 1\]"):
        top1(lambda x: x[..., None], [torch.eye(2)], [0, 1])
