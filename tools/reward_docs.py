"""Writes the catalogue part of docs/rewards.md from the catalogue itself: `python -m tools.reward_docs [--check]`."""

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

from services.reward.catalogue import CATALOGUE
from services.reward.catalogue.entry import AnyEntry

FILE = Path(__file__).parents[1] / "docs" / "rewards.md"
BEGIN = "<!-- catalogue: written by `python -m tools.reward_docs`, do not edit -->"
END = "<!-- end of catalogue -->"
SECTIONS = {
    "One box": "iou",
    "Sets of boxes": "matched_iou",
    "Counts and absent targets": "count_exact",
    "Points and keypoints": "point_in_box",
    "Masks": "mask_iou",
    "Text": "exact_match",
    "Closed answers and numbers": "numeric",
    "Form": "regex",
    "Length": "soft_overlong",
}
"""Title -> the first reward of the section; the catalogue is in this order."""


def catalogue_text() -> str:
    """The generated part, markers included."""
    names = list(CATALOGUE)
    starts = [*((title, names.index(first)) for title, first in SECTIONS.items()), ("", len(names))]
    lines = [BEGIN, ""]
    for (title, start), (_, end) in pairwise(starts):
        lines += [f"### {title}", ""]
        for name in names[start:end]:
            lines += _entry_lines(CATALOGUE[name])
    return "\n".join([*lines, END])


def _entry_lines(entry: AnyEntry) -> list[str]:
    labels = " or ".join(entry.labels) or "none"
    span = f"{entry.minimum:g} to {entry.maximum:g}"
    lines = [f"**`{entry.name}`** ({', '.join(entry.skills)}; ground truth: {labels}; {span})", ""]
    lines += [f"{entry.formula[:1].upper()}{entry.formula[1:]}", ""]
    lines += [f"Source: {entry.source}.", ""]
    if entry.beware:
        lines += [f"Beware: {entry.beware}.", ""]
    parameters = json.loads(entry.parameters.schema_text())["properties"] if entry.parameters.model_fields else {}
    for listed in entry.parameters.listed():
        default = json.dumps(parameters[listed.name]["default"])
        lines.append(f"- `{listed.name}` = `{default}`: {listed.description}")
    return [*lines, ""] if parameters else lines


def updated(text: str) -> str:
    """The document with its catalogue part written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{catalogue_text()}{after}"


def main() -> None:
    """Write the file, or with --check fail where it is not as it would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = FILE.read_text(encoding="utf-8")
    if parser.parse_args().check:
        sys.exit("docs/rewards.md is stale: run python -m tools.reward_docs" if updated(text) != text else 0)
    FILE.write_text(updated(text), encoding="utf-8")


if __name__ == "__main__":
    main()
