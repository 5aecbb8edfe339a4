"""`python -m moontune.model.verify FOLDER`: does this base load? One tensor at a time, whatever its size."""

import sys
from pathlib import Path

import torch

from moontune.errors import MoontuneError
from moontune.model.base_config import read_config
from moontune.model.base_folders import CONFIG_FILE, TOKENIZER_FILE
from moontune.model.moondream import Moondream
from moontune.model.tokenizer import Tokenizer
from moontune.model.weight_files import WeightFiles, stored_shapes
from moontune.model.weights import assemble, is_finite, plan


def problems_of(folder: Path) -> list[str]:
    """Everything that keeps the folder from being a base: config, tokenizer, names, shapes, values."""
    found: list[str] = []
    try:
        config = read_config(folder, lambda: stored_shapes(folder))
    except MoontuneError as error:
        return [f"{CONFIG_FILE}: {error.message}"]
    try:
        Tokenizer.from_file(folder / TOKENIZER_FILE, config.text.vocab_size, config.tokenizer.vocabulary)
    except MoontuneError as error:
        found.append(error.message)
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in Moondream(config).named_parameters()}
    try:
        with WeightFiles(folder, "cpu") as files:
            for name, recipe in plan(shapes, files.stored, folder).items():
                if not is_finite(assemble(files, recipe, shapes[name])):
                    found.append(f"{name} has values that are not finite")
    except MoontuneError as error:
        found.append(error.message)
    return found


def main(folder: str) -> int:
    """Print one line per problem; 1 when there is any."""
    problems = problems_of(Path(folder))
    for problem in problems:
        print(problem)  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
