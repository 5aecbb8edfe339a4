"""Memory: what a pass keeps, what recomputation saves, who is let in, and running out of it for real."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moontune.errors import ResourceExhausted
from moontune.values.finetune import FinetuneKind, LoraSettings
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from services.trainer.images import StepImages
from services.trainer.learner import LEAST_POSITIONS
from services.trainer.memory import BYTES_PER_NUMBER, DECISION_COPIES, WIDTHS_PER_LAYER, pass_positions
from services.trainer.orders import LearnerOptions
from tests.fakes.tiny_base import CONFIG, tiny_base
from tests.services.trainer.made import Bench, gradient_of, picture, policy_of, rl_group, sft_group

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = TrainSettings(learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def bench_with(base, folder: Path, **options) -> Bench:
    made = Bench.__new__(Bench)
    made.options = LearnerOptions(**options)
    made.base = base
    Bench.__init__(made, base, folder, learner=made.new_learner())
    return made


def saved_bytes(bench: Bench, groups) -> tuple[int, torch.Tensor]:
    """Bytes of activations that one pass keeps for its backward (each storage once), and its gradient."""
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in bench.learner._base.module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = gradient_of(bench, groups, SETTINGS)
    return sum(kept.values()), found


def test_recomputation_keeps_less_and_changes_nothing(base, tmp_path: Path) -> None:
    plain, thrifty = bench_with(base, tmp_path / "a"), bench_with(base, tmp_path / "b", recompute=True)
    for each in (plain, thrifty):
        each.train([sft_group(Skill.DETECT, 90)], SETTINGS)
    group = plain.on_policy(rl_group(Skill.DETECT, 1, policy_of(plain.finetune)))
    much, gradient = saved_bytes(plain, [group])
    little, same = saved_bytes(thrifty, [group])
    assert little < 0.5 * much
    assert (gradient - same).norm() <= 1e-6 * gradient.norm()


def test_a_row_longer_than_the_pass_is_recomputed_by_itself(base, tmp_path: Path) -> None:
    tight = bench_with(base, tmp_path, micro_tokens=20)
    tight.train([sft_group(Skill.DETECT, 90)], SETTINGS)
    long, _ = saved_bytes(tight, [tight.on_policy(rl_group(Skill.QUERY, 1, policy_of(tight.finetune), (1.0, 0.0)))])
    roomy = bench_with(base, tmp_path / "roomy")
    roomy.train([sft_group(Skill.DETECT, 90)], SETTINGS)
    kept, _ = saved_bytes(roomy, [roomy.on_policy(rl_group(Skill.QUERY, 1, policy_of(roomy.finetune), (1.0, 0.0)))])
    assert long < kept


def test_the_estimate_of_a_pass_is_on_the_safe_side_and_not_by_far(base, tmp_path: Path) -> None:
    bench = bench_with(base, tmp_path)
    bench.train([sft_group(Skill.DETECT, 90)], SETTINGS)
    groups = [bench.on_policy(rl_group(Skill.QUERY, seed, policy_of(bench.finetune), (1.0, 0.0))) for seed in range(6)]
    bench.learner._micro_tokens = 10_000
    much, _ = saved_bytes(bench, groups)
    rows = gradient_rows(bench, groups)
    text = CONFIG.text
    estimate = 4 * rows * (text.layers * WIDTHS_PER_LAYER * text.dim + DECISION_COPIES * text.vocab_size)
    assert 0.4 * estimate < much < estimate


def gradient_rows(bench: Bench, groups) -> int:
    """Padded positions of these groups as one pass."""
    from services.trainer.prepared import StepGroups

    own = bench.learner._base
    read = StepGroups(bench.spool(groups), SETTINGS, 1, own.config, own.tokenizer)
    lengths = [
        (prepared := read.read(index)).shared + sum(attempt.positions for attempt in prepared.attempts)
        for index in range(len(groups))
    ]
    return len(groups) * max(lengths)


def test_a_budget_in_bytes_decides_the_pass() -> None:
    text = CONFIG.text
    per_position = 4 * (text.layers * WIDTHS_PER_LAYER * text.dim + DECISION_COPIES * text.vocab_size)
    assert pass_positions(CONFIG, 1000 * per_position, LEAST_POSITIONS) == 1000
    assert pass_positions(CONFIG, 1, LEAST_POSITIONS) == LEAST_POSITIONS


def test_what_cannot_be_held_is_refused_with_the_figures(base, tmp_path: Path) -> None:
    small = bench_with(base, tmp_path / "small", finetune_bytes=2**20)
    numbers = sum(
        parameter.numel() for name, parameter in base.module.named_parameters() if not name.startswith("vision")
    )
    needed = BYTES_PER_NUMBER * numbers / 2**20
    with pytest.raises(ResourceExhausted, match=rf"takes {needed:.1f} MiB in training.*gives finetunes 1\.0 MiB"):
        Bench(base, tmp_path / "full", kind=FinetuneKind.FULL, learner=small.learner)
    outcome = small.train([sft_group(Skill.QUERY, 1)], SETTINGS)  # the other one is as it was
    rank4 = sum(parameter.numel() for parameter in small.learner._adapters.parameters(small.finetune.id).values())
    assert outcome.metrics["memory_bytes"] == BYTES_PER_NUMBER * rank4
    assert small.learner._adapters.size(LoraSettings(4), FinetuneKind.LORA) == rank4


def test_the_least_used_finetune_makes_room(base, tmp_path: Path) -> None:
    one = 16 * 10_000
    first = bench_with(base, tmp_path / "a", finetune_bytes=one + one // 2)
    size = first.learner._adapters.size(LoraSettings(4), FinetuneKind.LORA) * BYTES_PER_NUMBER
    first = bench_with(base, tmp_path / "b", finetune_bytes=size + size // 2)
    second = Bench(base, tmp_path / "c", name="01HZZZZZZZZZZZZZZZZZZZZZZY", learner=first.learner)
    assert first.learner._adapters.names == (second.finetune.id,)
    twin = Bench(base, tmp_path / "d")
    for each in (first, second, first):  # each comes back from its files when its turn is
        each.train([sft_group(Skill.QUERY, 1)], SETTINGS)
    for _ in range(2):
        twin.train([sft_group(Skill.QUERY, 1)], SETTINGS)
    assert first.finetune.adapter_digest == twin.finetune.adapter_digest


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from moontune.errors import ResourceExhausted
from moontune.values.skill import Skill
from moontune.values.training import TrainSettings
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import Bench, policy_of, rl_group

folder = Path(sys.argv[1])
torch.set_num_threads(1)
settings = TrainSettings(learning_rate=1e-2)
base = tiny_base(folder / "base")
bench, twin = Bench(base, folder / "a", micro=10**9), Bench(base, folder / "b")
small = [bench.on_policy(rl_group(Skill.DETECT, 1, policy_of(bench.finetune)))]
rewards = tuple(float(index % 2) for index in range(64))
large = [bench.on_policy(rl_group(Skill.DETECT, seed, policy_of(bench.finetune), rewards)) for seed in range(8)]
bench.train(small, settings), twin.train(small, settings)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 24 * 2**20, hard))
try:
    bench.train(large, settings)
    raise SystemExit("it fitted")
except ResourceExhausted as error:
    assert "out of memory while training on groups[" in error.message, error.message
finally:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
assert bench.train(small, settings).written == twin.train(small, settings).written
print("as if nothing had been")
"""


def test_running_out_of_memory_for_real_leaves_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "as if nothing had been", done.stderr


def test_another_finetune_is_untouched_by_a_bad_step(base, tmp_path: Path) -> None:
    bad = Bench(base, tmp_path / "bad")
    good = Bench(base, tmp_path / "good", name="01HZZZZZZZZZZZZZZZZZZZZZZY", learner=bad.learner)
    twin = Bench(base, tmp_path / "twin", name="01HZZZZZZZZZZZZZZZZZZZZZZY")
    huge = bad.on_policy(rl_group(Skill.QUERY, 5, policy_of(bad.finetune), (1e300, -1e300)))
    for seed in range(3):
        with pytest.raises(Exception, match="not finite"):
            bad.train([huge], SETTINGS)
        group = good.on_policy(rl_group(Skill.DETECT, seed, policy_of(good.finetune)))
        assert good.train([group], SETTINGS).written == twin.train([replace(group)], SETTINGS).written


@pytest.mark.parametrize(("passes", "most"), [(1, 3), (2, 4)])
def test_images_leave_when_nothing_of_the_step_looks_at_them_again(
    base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int, most: int
) -> None:
    """However many groups, a step of one pass holds few embeddings; each image is encoded once all the same."""
    bench, shared = Bench(base, tmp_path, micro=64), picture(50)
    groups = [rl_group(Skill.QUERY, seed, policy_of(bench.finetune), verified=False) for seed in range(5)]
    for seed in (0, 4):  # the first and the last look at one image
        groups[seed] = replace(groups[seed], request=replace(groups[seed].request, image=shared))
    held, encoded, release = [], [], StepImages.release

    def counted(self: StepImages, sha256s) -> None:
        held.append(len(self._held))
        release(self, sha256s)
        encoded.append(self.encoded)

    monkeypatch.setattr(StepImages, "release", counted)
    assert bench.train(groups, TrainSettings(learning_rate=1e-3, passes=passes)).written
    assert max(held) <= most
    assert encoded[-1] == 4  # four images, each once
