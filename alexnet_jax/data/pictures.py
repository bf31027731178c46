"""One picture as people have it: read, checked, turned upright, encoded."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def checked(data: bytes, *, own: bool, encoded: bool = True) -> tuple[bytes, np.ndarray]:
    """A picture's bytes as they are to be stored, and its pixels, uint8 [H, W, 3] RGB.

    Gray and RGB JPEGs, and among `own` pictures 8-bit PNGs, stay as they are to the byte; everything else
    (CMYK, WebP, with alpha, 16 bits, `own` ones that their orientation mark turns) becomes a JPEG of
    quality 100 without chroma subsampling, alpha over white. Not `encoded`, only the pixels are wanted.
    Raises ValueError for what is not a whole picture.
    """
    if not data:
        raise ValueError("zero bytes")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(data)) as opened:
            warnings.simplefilter("ignore")
            kind, mode = opened.format, opened.mode
            turned = own and opened.getexif().get(0x0112, 1) != 1
            transparent = "transparency" in opened.info
            opened.load()  # to its last byte: what is truncated ends here
            kept = (
                kind in (("JPEG", "PNG") if own else ("JPEG",))
                and mode in ("L", "RGB")
                and not turned
                and not transparent
            )
            picture = opened if kept else as_rgb(ImageOps.exif_transpose(opened) if turned else opened)
            pixels = np.asarray(picture.convert("RGB"))
    except Image.DecompressionBombError as error:
        raise ValueError(f"more pixels than a photograph has ({error})") from error
    except UnidentifiedImageError as error:
        raise ValueError("no image") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # what Pillow raises for damaged files
        raise ValueError(f"damaged: {error}") from error
    return (data if kept or not encoded else encode(pixels, quality=100, subsampling=False)), pixels


def as_rgb(picture: Image.Image) -> Image.Image:
    """Any picture as 8-bit RGB, alpha over white."""
    if picture.mode.startswith("I;16") or picture.mode == "I":
        return Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        over = picture.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return picture.convert("RGB")


def encode(pixels: np.ndarray, *, quality: int, subsampling: bool = True) -> bytes:
    """uint8 [H, W, 3] RGB -> JPEG, its chroma at half the resolution with `subsampling`."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampling else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    return bytes(cv2.imencode(".jpg", pixels[:, :, ::-1], options)[1].tobytes())
