"""Make the base: `python -m tools.tiny_base [--minutes 36] [--out moontune/model/bases/moontune-tiny]`."""

import argparse
import os
import tempfile
from pathlib import Path

DEFAULT_OUT = Path("moontune/model/bases/moontune-tiny")


def main() -> None:
    """Read the options, pre-train, and print the scores."""
    options = argparse.ArgumentParser(prog="python -m tools.tiny_base", description=__doc__)
    options.add_argument("--minutes", type=float, default=36.0, help="of training, after the scenes are drawn")
    options.add_argument("--steps", type=int, help="train this many steps instead; repeats exactly")
    options.add_argument("--scenes", type=int, default=48_000, help="how many to draw")
    options.add_argument("--out", type=Path, default=DEFAULT_OUT)
    options.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "moontune-tiny-base")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--images", type=int, default=32, help="per process and step")
    options.add_argument("--vision-dim", type=int, default=128)
    options.add_argument("--text-dim", type=int, default=128)
    options.add_argument("--layers", type=int, nargs=2, default=(4, 4), metavar=("VISION", "TEXT"))
    given = options.parse_args()
    # Before torch is imported: idle threads must not spin on the other process's core.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = "1"
    from tools.tiny_base.pretrain import Plan, pretrain

    pretrain(
        Plan(
            out=given.out,
            cache=given.cache,
            limit_s=given.minutes * 60,
            steps=given.steps,
            scenes=given.scenes,
            images=given.images,
            seed=given.seed,
            vision_dim=given.vision_dim,
            text_dim=given.text_dim,
            layers=(given.layers[0], given.layers[1]),
        )
    )


if __name__ == "__main__":
    main()
