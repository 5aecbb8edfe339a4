"""Make the base: `python -m tools.tiny_base [--minutes 35] [--out moontune/model/bases/moontune-tiny]`.

With `--score-only` the base that lies in --out is only scored.
"""

import argparse
import os
from pathlib import Path

DEFAULT_OUT = Path("moontune/model/bases/moontune-tiny")


def main() -> None:
    """Read the options, pre-train, and print the scores."""
    options = argparse.ArgumentParser(prog="python -m tools.tiny_base", description=__doc__)
    options.add_argument("--minutes", type=float, default=35.0, help="of training, after the scenes are drawn")
    options.add_argument("--steps", type=int, help="train this many steps instead; repeats exactly")
    options.add_argument("--scenes", type=int, default=48_000, help="how many to draw")
    options.add_argument("--out", type=Path, default=DEFAULT_OUT)
    options.add_argument("--cache", type=Path, default=Path("out/tiny-base-scenes"), help="drawn scenes")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--images", type=int, default=20, help="per process and step")
    options.add_argument("--fp32", action="store_true", help="for CPUs without avx512_bf16")
    options.add_argument("--vision-dim", type=int, default=128)
    options.add_argument("--text-dim", type=int, default=128)
    options.add_argument("--layers", type=int, nargs=2, default=(4, 4), metavar=("VISION", "TEXT"))
    options.add_argument("--score-scenes", type=int, default=600, help="held-out scenes to score on")
    options.add_argument("--score-only", action="store_true")
    given = options.parse_args()
    # Before torch is imported: idle threads must not spin on the other process's core.
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = "1"
    if not given.score_only:
        _pretrain(given)
    _score(given.out, given.score_scenes, given.seed)


def _pretrain(given: argparse.Namespace) -> None:
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
            bf16=not given.fp32,
            vision_dim=given.vision_dim,
            text_dim=given.text_dim,
            layers=(given.layers[0], given.layers[1]),
        )
    )


def _score(folder: Path, scenes: int, seed: int) -> None:
    from tools.tiny_base.score import as_json, as_table, score_base

    scores = score_base(folder, scenes, seed)
    (folder / "scores.json").write_text(as_json(scores), encoding="utf-8")
    print(as_table(scores))


if __name__ == "__main__":
    main()
