"""The public catalogue as the bytes that a server serves and a device keeps. Their SHA-256 is its name everywhere."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedrec.data.interactions import Catalogue
from fedrec.data.safetensors import metadata
from fedrec.data.tabular import MAX_TOKEN
from fedrec.errors import DataError

if TYPE_CHECKING:
    from fedrec.device.store import Store

DOCUMENT = "catalogue"
"""Its name in a device's store."""

_FORM = "fedrec-catalogue/1"
_TEXTS = ("ids", "titles")
_NUMBERS: dict[str, tuple[type[np.generic], int]] = {
    "years": (np.float64, 1),
    "genres": (np.float32, 2),
    "features": (np.float32, 2),
}
"""Each array's type and number of dimensions."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def digest(content: bytes) -> str:
    """The name of a catalogue: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def check_id(item: str) -> None:
    """Refuse what cannot be an item's id: nothing, more than `MAX_TOKEN` bytes, or control characters in it.

    Raises:
        DataError: saying which of these it is.
    """
    try:
        size = len(item.encode())
    except UnicodeEncodeError:
        raise DataError(f"The item's id {item!r} is not text; leave that character out.") from None
    if not 0 < size <= MAX_TOKEN:
        raise DataError(f"An item's id has 1 to {MAX_TOKEN} bytes, and this one has {size}.")
    if _CONTROL.search(item):
        raise DataError(f"The item's id {item!r} holds a line break or another control character; leave that out.")


def to_bytes(catalogue: Catalogue) -> bytes:
    """The same catalogue gives the same bytes: safetensors, with each column of texts as lines of UTF-8.

    Raises:
        DataError: for a catalogue that could not be read back as it is.
    """
    from safetensors.numpy import save

    _check(catalogue)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in _TEXTS:
        texts = getattr(catalogue, name)
        if texts is not None:
            arrays[name] = np.frombuffer("\n".join(texts.tolist()).encode(), np.uint8)
    for name, (dtype, _) in _NUMBERS.items():
        array = getattr(catalogue, name)
        if array is not None:
            arrays[name] = np.ascontiguousarray(array, dtype)
    # One key: several would come in any order.
    about = {"form": _FORM, "genre_names": list(catalogue.genre_names), "items": len(catalogue)}
    return bytes(save(arrays, metadata={"catalogue": json.dumps(about, sort_keys=True, separators=(",", ":"))}))


def from_bytes(content: bytes) -> Catalogue:
    """A catalogue as it was, item numbers included.

    Raises:
        DataError: for bytes that are not one.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    try:
        arrays = load_arrays(content)
        about = json.loads(metadata(content)["catalogue"])
        form, n, names = about["form"], about["items"], tuple(about["genre_names"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"These bytes are not a catalogue ({error}); get it from the server again.") from error
    if form != _FORM or not isinstance(n, int) or not all(isinstance(name, str) for name in names):
        raise DataError("This catalogue has a form that this fedrec does not read; update fedrec.")
    unknown = set(arrays) - {*_TEXTS, *_NUMBERS}
    if unknown or "ids" not in arrays:
        raise DataError(f"A catalogue has ids and known columns alone, and this one has {sorted(arrays)}.")
    columns = {name: _texts(name, arrays[name], n) for name in _TEXTS if name in arrays}
    numbers = {name: _numbers(name, arrays[name], *form) for name, form in _NUMBERS.items() if name in arrays}
    catalogue = Catalogue(
        ids=columns["ids"],
        titles=columns.get("titles"),
        years=numbers.get("years"),
        genre_names=names,
        genres=numbers.get("genres"),
        features=numbers.get("features"),
    )
    _check(catalogue)
    return catalogue


def load(store: Store) -> tuple[Catalogue, str] | None:
    """The catalogue that a device keeps and its digest, or None before it has one.

    Raises:
        DataError: if the document is no catalogue.
    """
    content = store.get(DOCUMENT)
    return None if content is None else (from_bytes(content), digest(content))


def _texts(name: str, array: npt.NDArray[Any], n: int) -> npt.NDArray[np.str_]:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise DataError(f"The catalogue's '{name}' are not text; get it from the server again.")
    try:
        found = array.tobytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"The catalogue's '{name}' are not UTF-8; get it from the server again.") from error
    if len(found) != n:
        raise DataError(f"The catalogue has {len(found)} '{name}' for {n} items; get it from the server again.")
    return np.array(found)


def _numbers(name: str, array: npt.NDArray[Any], dtype: type[np.generic], dimensions: int) -> npt.NDArray[Any]:
    if array.dtype != dtype or array.ndim != dimensions:
        raise DataError(
            f"The catalogue's '{name}' have the wrong type or shape ({array.dtype}, {array.ndim} dimensions); get it "
            "from the server again."
        )
    return array


def _check(catalogue: Catalogue) -> None:
    """What every catalogue that devices get keeps to.

    Raises:
        DataError: naming the column that does not.
    """
    ids = catalogue.ids.tolist()
    if not ids:
        raise DataError("The catalogue holds no items.")
    if len(set(ids)) < len(ids):
        raise DataError("The catalogue holds an item's id twice; leave one of them out.")
    if _CONTROL.search("".join(ids)) or not all(0 < len(item) <= MAX_TOKEN // 4 for item in ids):
        for item in ids:  # only now one by one: there may be many
            check_id(item)
    if catalogue.titles is not None:
        for title in filter(_CONTROL.search, catalogue.titles.tolist()):
            raise DataError(f"The title {title!r} holds a line break or another control character; replace it.")
    for name in ("genres", "features"):
        array = getattr(catalogue, name)
        if array is not None and not np.isfinite(array).all():
            raise DataError(f"The catalogue's '{name}' are not all finite numbers; correct them.")
    if catalogue.years is not None and np.isinf(catalogue.years).any():
        raise DataError("The catalogue's 'years' are not all finite numbers or unknown (NaN); correct them.")
