"""The metadata of a safetensors file, which the library itself shows only of files that it maps."""

from __future__ import annotations

import json


def metadata(content: bytes) -> dict[str, str]:
    """Names and texts of the header's ``__metadata__``: 8 bytes of its length, little-endian, then JSON.

    Raises:
        ValueError: for bytes that are no safetensors file, or carry none.
    """
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    found = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(found, dict):
        raise ValueError("it carries no metadata")
    return found
