"""What the commands here share: a page of help, and figures as one JSON object or line by line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def command(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`; a module's docstring is its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    return parser


def tell(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints what was found: a line for each figure, for each of a list of them, and for each part."""
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in found.items():
        several = value if isinstance(value, list) and value and isinstance(value[0], Mapping) else [value]
        lines += [f"{name}: {_words(one) if isinstance(one, Mapping) else one}" for one in several]
    return lines


def _words(found: Mapping[str, Any]) -> str:
    return "  ".join(f"{name} {value}" for name, value in found.items())
