"""Labelled images on disk: one folder per class, a tar of such a folder, or a PaddleClas list file.

Opening a dataset lists it; images are read on demand, from any thread. Nothing is extracted.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath

from .._utils.tars import read_headers
from .._utils.texts import CHINESE, candidates, looks_chinese
from ..errors import ImageError, InputError
from ..images.inputs import IMAGE_SUFFIXES, walk

MAX_IMAGES = 50_000_000
MAX_CLASSES = 1_000_000
MAX_LIST_BYTES = 4 * 2**30
MAX_LINE_LENGTH = 64 * 2**10
MAX_IMAGE_BYTES = 256 * 2**20

UNLABELLED = -1
_LISTED = 5
_LABELLED = re.compile(r"(.*\S)[ \t]+([0-9]+)", re.DOTALL)
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Sample:
    """One image: its name in the dataset, its class, and where it is stored."""

    name: str
    label: int
    """Class index, or ``UNLABELLED``."""
    path: Path
    offset: int = 0
    size: int | None = None
    """Number of bytes from ``offset``; ``None`` means the whole file."""
    shown: tuple[int, ...] = ()
    """Class indices that the image shows, in data for multi-label models; ``label`` is ``UNLABELLED`` there."""

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            ImageError: the file cannot be read, is too large, or has shrunk.
        """
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size if self.size is None else self.size
                if size > MAX_IMAGE_BYTES:
                    raise ImageError(self.name, f"{size} bytes are more than the {MAX_IMAGE_BYTES} that are read")
                file.seek(self.offset)
                data = file.read(size)
        except OSError as error:
            raise ImageError(self.name, f"cannot be read ({error.strerror or error})") from error
        if len(data) != size:
            raise ImageError(self.name, "is shorter than it was when the data were listed")
        return data

    def stamp(self) -> tuple[int, int]:
        """Return the number of bytes, and when their file was written, in nanoseconds.

        Raises:
            ImageError: the file is not there.
        """
        try:
            found = self.path.stat()
        except OSError as error:
            raise ImageError(self.name, f"cannot be read ({error.strerror or error})") from error
        return found.st_size if self.size is None else self.size, found.st_mtime_ns


@dataclass(frozen=True)
class ImageDataset:
    """Samples and class names; a name's position is its class index."""

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    passed_over: int = 0
    """Number of files that are not images by their suffix, or hidden, and of hidden folders."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the samples' names and labels, in order."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(f"{sample.label} {sample.name}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def open_dataset(
    path: str | PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    labelled: bool = True,
    is_class: Callable[[str], bool] = lambda _: False,
) -> ImageDataset:
    """List the images of ``path``: a folder with one folder per class, a tar of it, or a ``.txt`` list file.

    A list file has one line ``<path> <class index>`` per image; paths are relative to the file's folder. Links to
    folders are followed. A folder that contains nothing but one other folder is skipped, so a tar may hold
    ``train/cat/``.

    Args:
        path: the data.
        classes: the class names in the order of the indices; ``None`` takes the sorted names of the folders, or
            ``class_<index>`` for a list file.
        labelled: ``False`` takes all images as unlabelled, whatever folders they are in.
        is_class: whether a folder's name is one of a class; decides which of several nested folders is the class folder
            of data with one class.

    Raises:
        InputError: the data are missing, empty, of another kind, or do not fit ``classes``, a class folder has no
            images, or a link forms a loop.
    """
    path = Path(path)
    passed_over: list[object] = []
    if path.is_dir():
        files = walk(path, passed_over.append, follow_links=True)
        found = [Sample(str(file.relative_to(path).as_posix()), UNLABELLED, file) for file in files]
    elif path.suffix.lower() == ".tar":
        found = _tar_members(path, passed_over)
    elif path.is_file() and path.suffix.lower() == ".txt":
        return _from_list(path, classes, labelled)
    elif path.is_file():
        raise InputError(
            f"{path} is not labelled data; pass a folder with one folder per class, a .tar of one "
            "(not compressed), or a .txt list file."
        )
    else:
        raise InputError(f"There is nothing at {path}; check the path.")
    if not found:
        raise InputError(f"{path} holds no image files ({', '.join(sorted(IMAGE_SUFFIXES))}); check the path.")
    if not labelled:
        return ImageDataset(tuple(found), tuple(classes or ()), len(passed_over))
    dataset = replace(_by_folder(path, found, classes, is_class), passed_over=len(passed_over))
    if path.is_dir():
        _check_folders(path, dataset)
    return dataset


def _tar_members(path: Path, passed_over: list[object]) -> list[Sample]:
    samples = []
    try:
        with path.open("rb") as file:
            for member in read_headers(file):
                if PurePosixPath(member.name).suffix.lower() not in IMAGE_SUFFIXES or member.isdir():
                    passed_over += [] if member.isdir() else [member.name]
                    continue
                if not member.isreg() or member.issparse():
                    raise InputError(f"{path}: {member.name} is a link or special file; pack the images themselves.")
                samples.append(Sample(member.name, UNLABELLED, path, member.offset_data, member.size))
                if len(samples) > MAX_IMAGES:
                    raise InputError(f"{path} holds more than {MAX_IMAGES} images; split it.")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path} is not a readable, uncompressed tar file: {error}.") from error
    return sorted(samples, key=lambda sample: sample.name)


def _by_folder(
    path: Path, found: list[Sample], classes: Sequence[str] | None, is_class: Callable[[str], bool]
) -> ImageDataset:
    parts = [PurePosixPath(sample.name).parts for sample in found]
    depth = 0
    while all(len(each) > depth + 2 and each[depth] == parts[0][depth] for each in parts):
        depth += 1
    if not all(map(is_class, {each[depth] for each in parts})):
        depth = next((above for above in reversed(range(depth)) if is_class(parts[0][above])), depth)
    outside = [sample.name for sample, each in zip(found, parts, strict=True) if len(each) < depth + 2]
    if outside:
        raise InputError(
            f"{path}: {len(outside)} image(s) are in no class folder, first {outside[0]}; move them, or pass a .txt "
            "list file with a line '<path> <class index>' each."
        )
    names = tuple(classes) if classes is not None else tuple(sorted({each[depth] for each in parts}))
    index = {name: number for number, name in enumerate(names)}
    strange = sorted({each[depth] for each in parts} - set(index))
    if strange:
        raise InputError(
            f"{path} has folders that match no class of the model: {', '.join(strange[:5])}; "
            f"its classes are {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}."
        )
    samples = tuple(
        Sample(sample.name, index[each[depth]], sample.path, sample.offset, sample.size)
        for sample, each in zip(found, parts, strict=True)
    )
    return ImageDataset(samples, names)


def _check_folders(path: Path, dataset: ImageDataset) -> None:
    """Refuse class folders without images: these classes would disappear silently."""
    first = dataset.samples[0]
    parts = PurePosixPath(first.name).parts
    depth = parts.index(dataset.classes[first.label])
    root = path.joinpath(*parts[:depth])
    folders = {entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    empty = sorted(folders - {PurePosixPath(sample.name).parts[depth] for sample in dataset.samples})
    if empty:
        shown = ", ".join(empty[:_LISTED]) + (" ..." if len(empty) > _LISTED else "")
        raise InputError(f"{root}: {len(empty)} class folder(s) hold no images: {shown}; add images or remove them.")


def _from_list(path: Path, classes: Sequence[str] | None, labelled: bool) -> ImageDataset:
    entries = read_list(path, labelled=labelled)
    samples = tuple(Sample(name, index if labelled else UNLABELLED, path.parent / name) for name, index in entries)
    if not labelled:
        return ImageDataset(samples, tuple(classes or ()))
    highest = max(sample.label for sample in samples)
    names = tuple(classes) if classes is not None else tuple(f"class_{index}" for index in range(highest + 1))
    if highest >= len(names):
        raise InputError(f"{path} has class index {highest}, but the model has {len(names)} classes.")
    return ImageDataset(samples, names)


def read_list(path: Path, *, labelled: bool) -> list[tuple[str, int]]:
    """Return the image paths and class indices, in the order of the lines.

    Path and index are separated by spaces or tabs. UTF-8, UTF-16 with a byte order mark, and GB18030 (logged as a
    warning) are read. A backslash is a path separator, unless a file of that very name exists.

    Args:
        path: the list file; image paths are relative to its folder.
        labelled: ``False`` also accepts lines without an index.

    Raises:
        InputError: the file cannot be read, is empty, or has a malformed line.
    """
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise InputError(f"{path} is larger than {MAX_LIST_BYTES} bytes; is it a list file?")
        with path.open("rb") as file:
            encodings = candidates(file.read(4))
        for encoding in encodings:
            try:
                entries = list(_entries(path, encoding, labelled))
            except UnicodeDecodeError:
                continue
            if encoding != CHINESE or looks_chinese("".join(name for name, _ in entries)):
                break
        else:
            raise InputError(f"{path} is neither UTF-8 nor GB18030; save it as UTF-8.")
    except OSError as error:
        raise InputError(f"{path} cannot be read as a list file: {error.strerror or error}.") from error
    if not entries:
        raise InputError(f"{path} lists no images.")
    if encoding == CHINESE:
        _log.warning("%s is not UTF-8 and was read as GB18030; if images are not found, save it as UTF-8.", path)
    return entries


def _entries(path: Path, encoding: str, labelled: bool) -> Iterator[tuple[str, int]]:
    count = 0
    for number, line in enumerate(_lines(path, encoding), start=1):
        if not line:
            continue
        match = _LABELLED.fullmatch(line)
        name, index = match.groups() if match else (line, "0")
        if labelled and (match is None or int(index[:9]) >= MAX_CLASSES):
            raise InputError(f"{path}, line {number}: expected '<path> <class index>', found {line[:80]!r}.")
        count += 1
        if count > MAX_IMAGES:
            raise InputError(f"{path} lists more than {MAX_IMAGES} images; split it.")
        yield _with_slashes(path, name), int(index[:9])


def _with_slashes(path: Path, name: str) -> str:
    if "\\" not in name or os.sep == "\\" or os.path.lexists(path.parent / name):
        return name
    return name.replace("\\", "/")


def _lines(path: Path, encoding: str) -> Iterator[str]:
    with path.open(encoding=encoding) as file:
        while line := file.readline(MAX_LINE_LENGTH + 1):
            if len(line) > MAX_LINE_LENGTH:
                raise InputError(f"{path} has a line of more than {MAX_LINE_LENGTH} characters; is it a list file?")
            yield line.removeprefix("\ufeff").strip()
