"""Files of a folder or an archive, read in place, and pictures decoded from their bytes.

Nothing is unpacked onto the disk. Decoding gives 8-bit RGB whatever the file holds: grey is
repeated, 16 bits are divided by 257, transparent parts are laid on white, a camera's rotation
is carried out.

References:
    CIPA (2019), "Exif 2.32", tag 0x0112 (orientation).
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

__all__ = [
    "BrokenImageError", "Files", "Pictures", "decode_image", "decode_mask", "is_image",
    "open_files",
]  # fmt: skip

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, TypeError, KeyError,
    OverflowError, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises on files that are cut off or scrambled."""


class BrokenImageError(ValueError):
    """A file that is no picture, or not the picture that was expected."""


def is_image(name: str) -> bool:
    """Whether a file's name is that of a picture; hidden files are none."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


class Files:
    """Names and bytes of the files in a folder.

    Attributes:
        path: The folder or archive.
        names: Relative names with slashes, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = sorted(self._list())

    def _list(self) -> Iterator[str]:
        for folder, _, files in os.walk(self.path, followlinks=True):
            for name in files:
                yield Path(folder, name).relative_to(self.path).as_posix()

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file; any number of threads may read."""
        return (self.path / name).read_bytes()


class _Zip(Files):
    def _list(self) -> Iterator[str]:
        self._archive = zipfile.ZipFile(self.path)
        return (i.filename for i in self._archive.infolist() if not i.is_dir())

    def read(self, name: str) -> bytes:
        return self._archive.read(name)


class _Tar(Files):
    """Read at the places where the files lie; a compressed tar has none and is kept as a whole."""

    def _list(self) -> Iterator[str]:
        self._places: dict[str, tuple[int, int]] = {}
        self._whole: dict[str, bytes] = {}
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in filter(_is_plain, archive):
                    self._places[_inside(member)] = member.offset_data, member.size
            return iter(self._places)
        except tarfile.ReadError:
            with tarfile.open(self.path) as archive:
                for member in filter(_is_plain, archive):
                    file = archive.extractfile(member)
                    assert file is not None
                    self._whole[_inside(member)] = file.read()
            return iter(self._whole)

    def read(self, name: str) -> bytes:
        if name in self._whole:
            return self._whole[name]
        start, size = self._places[name]
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(size)


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _inside(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def open_files(path: str | os.PathLike[str]) -> Files:
    """Opens a folder, a zip or a tar (also compressed).

    Raises:
        ValueError: There is nothing, or something else.
    """
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file or folder")
    if path.is_dir():
        return Files(path)
    try:
        if zipfile.is_zipfile(path):
            return _Zip(path)
        if tarfile.is_tarfile(path):
            return _Tar(path)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path}: the archive is broken ({error})") from error
    raise ValueError(f"{path}: expected a folder, a zip or a tar of images")


def _opened(data: bytes, name: str) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    pages = getattr(image, "n_frames", 1)
    if image.format == "TIFF" and pages > 1:
        raise BrokenImageError(
            f"{name}: expected one picture, found {pages} pages: store each in a file of its own"
        )
    image.load()
    return image


@contextlib.contextmanager
def _told(data: bytes, name: str) -> Iterator[None]:
    """Whatever goes wrong with a file is said of that file."""
    try:
        yield
    except BrokenImageError:
        raise
    except _BROKEN as error:
        reason = str(error).replace("<_io.BytesIO object at ", "<").split(" <")[0]
        raise BrokenImageError(
            f"{name}: expected a picture, found {len(data)} bytes: {reason}"
        ) from error


def decode_image(
    data: bytes, name: str = "image", size: tuple[int, int] | None = None
) -> np.ndarray:
    """Returns a picture as (H, W, 3) uint8, upright.

    Args:
        data: The file's bytes.
        name: What errors call it.
        size: Height and width that boxes refer to: a picture stored rotated is turned only if
            that gives this size. Pictures of neither size are refused.

    Raises:
        BrokenImageError: The bytes are no picture, or one of another size.
    """
    with _told(data, name):
        image = _opened(data, name)
        if size is None or (image.height, image.width) != tuple(size):
            image = ImageOps.exif_transpose(image)
        if size is not None and (image.height, image.width) != tuple(size):
            found = f"{image.width} x {image.height}"
            raise BrokenImageError(f"{name}: expected {size[1]} x {size[0]} pixels, found {found}")
        return _as_rgb(image, name)


def _as_rgb(image: Image.Image, name: str) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = np.asarray(image).astype(np.int64)
        if grey.min(initial=0) < 0 or grey.max(initial=0) > 65535:
            raise BrokenImageError(f"{name}: expected at most 16 bits a pixel, found {grey.max()}")
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise BrokenImageError(
            f"{name}: expected whole numbers, found floats: store it with 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def decode_mask(data: bytes, name: str = "mask") -> np.ndarray:
    """Returns the classes of a mask's pixels (H, W): values of one channel, or of a palette.

    Args:
        data: The file's bytes.
        name: What errors call it.

    Raises:
        BrokenImageError: The bytes are no picture, or one in colours.
    """
    with _told(data, name):
        image = _opened(data, name)
        pixels = np.asarray(image)
    if pixels.ndim == 3 and image.mode in ("RGB", "RGBA", "LA"):
        colours = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., :1]
        if (colours != colours[..., :1]).any():
            raise BrokenImageError(
                f"{name}: expected one class a pixel (grey or a palette), found colours"
            )
        pixels = colours[..., 0]
    if pixels.ndim != 2 or pixels.dtype.kind not in "bui":
        raise BrokenImageError(f"{name}: expected one whole number a pixel, found {image.mode}")
    return pixels.astype(np.uint8 if pixels.dtype == bool else pixels.dtype)


class Pictures(Sequence):
    """Pictures that are decoded when asked for, and kept while they fit.

    Args:
        files: Where they are.
        names: Their names there.
        sizes: Height and width that each must have, or None.
        keep: Bytes of decoded pictures to keep.
    """

    def __init__(
        self, files: Files, names: Sequence[str],
        sizes: Sequence[tuple[int, int] | None] | None = None, keep: int = 0,
    ) -> None:  # fmt: skip
        self.files, self.names, self.sizes, self.keep = files, names, sizes, keep
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:  # pyright: ignore[reportIncompatibleMethodOverride]
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        name = self.names[index]
        size = None if self.sizes is None else self.sizes[index]
        image = decode_image(self.files.read(name), f"{self.files.path}: {name}", size)
        if self.keep >= image.nbytes:
            self.keep -= image.nbytes
            self._kept[index] = image
        return image

    def select(self, rows: Sequence[int] | np.ndarray) -> Pictures:
        """Returns some of them, with what is decoded."""
        sizes = None if self.sizes is None else [self.sizes[i] for i in rows]
        chosen = Pictures(self.files, [self.names[i] for i in rows], sizes, 0)
        chosen._kept = {k: self._kept[i] for k, i in enumerate(rows) if i in self._kept}
        return chosen
