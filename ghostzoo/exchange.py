"""GhostNet's weights, written in the form of PaddleClas or of timm."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ._utils.files import as_path, write_atomically
from .bundle.timm_config import CONFIG_FILE, WEIGHTS_FILE, timm_config
from .errors import OptionError
from .images.preprocessing import Preprocessing
from .labels import find_timm_config, resolve_labels
from .weights.params import dump_weights, read_weights
from .weights.translation import FORMS, translate


def rewrite_weights(
    weights: str | PathLike[str],
    out: str | PathLike[str],
    *,
    form: str,
    prefix: str | None = None,
    labels: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a GhostNet's weights in the other form, exact up to the rounding of float32.

    Args:
        weights: a ``.pdparams`` or ``.safetensors`` file; nothing in it is executed.
        out: for ``timm`` a folder, which ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads; for
            ``paddle`` a ``.pdparams`` file.
        form: ``timm`` or ``paddle``.
        prefix, labels: as for ``convert``; timm's folder has the labels.
        overwrite: replace existing files.

    Returns:
        The file with the weights.

    Raises:
        GhostZooError: the file cannot be used, or its weights have no such form; nothing was written.
    """
    if form not in FORMS:
        raise OptionError(f"Weights are written for {' or '.join(FORMS)}, not for {form!r}.")
    weights, out = as_path(weights, "weights"), as_path(out, "out")
    tensors = read_weights(weights, prefix=prefix)
    arrays, architecture = translate(tensors.arrays, tensors.architecture, form)
    files = {out: dump_weights(arrays, architecture)}
    if form == "timm":
        classes = resolve_labels(labels or find_timm_config(weights), architecture.num_classes)
        files = {
            out / WEIGHTS_FILE: dump_weights(arrays, architecture),
            out / CONFIG_FILE: timm_config(architecture, classes, Preprocessing()),
        }
    existing = [str(path) for path in files if path.exists()]
    if existing and not overwrite:
        raise OptionError(f"{' and '.join(existing)} exists; choose another --out, or give --overwrite.")
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
    except OSError as error:
        raise OptionError(f"Cannot write {error.filename or out}: {error.strerror or error}.") from error
    return next(iter(files))
