"""Compare our models with what Moondream's public implementations made: `python -m tools.check_golden DIR [DIR...]`.

A directory holds config.json, weights_manifest.json, image.png, tensors.safetensors, results.json and, for the
outputs with an adapter, variant_lora.safetensors; its weights are filled from a seed. Every tensor and every output
gets one line. Exit status 1 when anything differs, 2 when a directory cannot be read.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from moontune.errors import MoontuneError
from tools.check_golden.fill import misfits
from tools.check_golden.golden import Golden, load_golden
from tools.check_golden.line import Line
from tools.check_golden.outputs import VARIANT, check_facts, check_outputs
from tools.check_golden.stored_tensors import check_tensors
from tools.check_golden.variant import with_variant


def check(golden: Golden, tolerance: float = 1e-4, max_tokens: int = 8, max_objects: int = 3) -> Iterator[Line]:
    """Every line of one directory."""
    wrong = misfits(golden.manifest, golden.state)
    yield Line("weights", not wrong, f"{len(golden.manifest)} parameters of seed {golden.seed}; {_named(wrong)}")
    yield from check_facts(golden)
    yield from check_tensors(golden, tolerance)
    yield from check_outputs(golden, max_tokens, max_objects, variant=False)
    if any(key.endswith(VARIANT) for key in golden.results):
        with with_variant(golden):
            yield from check_outputs(golden, max_tokens, max_objects, variant=True)


def main() -> int:
    """Print every line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.check_golden", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, help="of the weights; found by the manifest's sums when not given")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of tensors, relative to their largest value")
    parser.add_argument("--max-tokens", type=int, default=8, help="of each text when the data was made")
    parser.add_argument("--max-objects", type=int, default=3, help="of each answer when the data was made")
    given = parser.parse_args()
    status = 0
    for folder in given.folders:
        print(f"{folder}")
        try:
            with torch.no_grad():
                golden = load_golden(folder, given.seed)
                lines = check(golden, given.tolerance, given.max_tokens, given.max_objects)
                count = wrong = 0
                for line in lines:
                    print(f"  {line}", flush=True)
                    count, wrong = count + 1, wrong + (not line.agrees)
        except (OSError, ValueError, KeyError, RuntimeError, MoontuneError) as error:
            print(f"  cannot be checked: {error}", file=sys.stderr)
            status = 2
            continue
        print(f"  {count - wrong} of {count} agree")
        status = max(status, 1 if wrong else 0)
    return status


def _named(wrong: list[str]) -> str:
    return f"sums differ: {', '.join(wrong)}" if wrong else "every sum agrees"


if __name__ == "__main__":
    sys.exit(main())
