"""What a card shows of preprocessing with other libraries, by how the model's pictures are resized."""

from __future__ import annotations

from string import Template

from ghostzoo.images.preprocessing import BICUBIC, BILINEAR, Preprocessing

_BILINEAR_PIXELS = """\
rgb = cv2.cvtColor(cv2.imread("photo.jpg", cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
scale = $resize / min(rgb.shape[:2])
size = (round(rgb.shape[1] * scale), round(rgb.shape[0] * scale))
rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_LINEAR)
top, left = (rgb.shape[0] - $crop) // 2, (rgb.shape[1] - $crop) // 2
rgb = rgb[top : top + $crop, left : left + $crop].astype(np.float32)
mean, std = np.float32($mean), np.float32($std)
pixel_values = ((rgb * np.float32($rescale) - mean) / std).transpose(2, 0, 1)[None]"""
_BICUBIC_PIXELS = """\
picture = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
width, height = (int($resize * side / min(picture.size)) for side in picture.size)
# Across first, as Pillow did before version 13, which begins with the height of tall pictures.
picture = picture.resize((width, picture.height), Image.Resampling.BICUBIC)
picture = picture.resize((width, height), Image.Resampling.BICUBIC)
top, left = round((height - $crop) / 2), round((width - $crop) / 2)
rgb = np.asarray(picture)[top : top + $crop, left : left + $crop] * $rescale
mean, std = np.float32($mean), np.float32($std)
pixel_values = ((rgb.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]"""
_TEXTS = {
    BILINEAR: {
        "library": "opencv-python-headless",
        "imports": "import cv2",
        "pixels": _BILINEAR_PIXELS,
        "processor": "its processor smooths pictures when it shrinks them, which the original does not",
        "browser": "samples\npictures at slightly other places than the original does",
    },
    BICUBIC: {
        "library": "pillow",
        "imports": "from PIL import Image, ImageOps",
        "pixels": _BICUBIC_PIXELS,
        "processor": "its processor may cut one pixel beside the original's place",
        "browser": "resizes\nwith another filter than the original does",
    },
}


def preprocessing_texts(steps: Preprocessing) -> dict[str, str]:
    """Return the values of the placeholders in ``use.md`` that depend on the preprocessing."""
    facts = {
        "resize": steps.resize_short,
        "crop": steps.crop_size,
        "rescale": steps.rescale_factor,
        "mean": list(steps.mean),
        "std": list(steps.std),
    }
    return {name: Template(text).substitute(facts) for name, text in _TEXTS[steps.interpolation].items()}
