"""Each optimiser's first step by hand, resume bit for bit, and a change of optimiser between steps."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moontune.errors import CheckpointCorrupt
from moontune.values.finetune import FinetuneKind
from moontune.values.skill import Skill
from moontune.values.training import OptimiserKind, TrainSettings
from services.trainer.live import LiveFinetune
from services.trainer.step_folder import load_moments, read_optimiser
from tests.fakes.tiny_base import tiny_base
from tests.services.trainer.made import Bench, sft_group


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def settings_of(kind: OptimiserKind) -> TrainSettings:
    return TrainSettings(learning_rate=0.1, optimiser=kind, beta1=0.5)


def moved(kind: OptimiserKind, weight: list[list[float]], gradients: list[list[list[float]]]) -> list[list[float]]:
    live = LiveFinetune("ft", {"w": torch.nn.Parameter(torch.tensor(weight))})
    live.configure(settings_of(kind))
    for gradient in gradients:
        live.parameters["w"].grad = torch.tensor(gradient)
        live.optimiser.step()
    return live.parameters["w"].tolist()


def test_steps_by_hand() -> None:
    two = [[[2.0, -4.0]], [[2.0, -4.0]]]
    # AdamW: each step is the learning rate times the gradient's sign where the gradient stays the same.
    assert moved(OptimiserKind.ADAMW, [[1.0, 1.0]], two)[0] == pytest.approx([0.8, 1.2], abs=1e-5)
    # SGD: 0.1 g, then 0.1 (g + 0.5 g).
    assert moved(OptimiserKind.SGD, [[1.0, 1.0]], two)[0] == pytest.approx([1 - 0.5, 1 + 1.0], abs=1e-6)
    # Adafactor, first step (beta2 0): mean squares 10 (row), 4 and 16 (columns), estimate 10 x (4, 16) / 10,
    # so the update is (1, -1), not clipped, times min(0.1, 1) and the weights' root mean square 1.
    assert moved(OptimiserKind.ADAFACTOR, [[1.0, 1.0]], two[:1])[0] == pytest.approx([0.9, 1.1], abs=1e-5)


@pytest.mark.parametrize("kind", list(OptimiserKind))
def test_a_resume_is_bit_exact(base, tmp_path: Path, kind: OptimiserKind) -> None:
    straight, resumed = (Bench(base, tmp_path / name, kind=FinetuneKind.LORA_REGION) for name in "ab")
    for seed in range(3):
        resumed.restart()
        for bench in (straight, resumed):
            assert bench.train([sft_group(Skill.DETECT, seed)], settings_of(kind)).written
    assert straight.finetune.adapter_digest == resumed.finetune.adapter_digest
    ours, theirs = (read_optimiser(each.step_folder).moments for each in (straight, resumed))
    assert ours
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_optimiser_begins_anew_in_memory_as_from_files(base, tmp_path: Path) -> None:
    straight, resumed = Bench(base, tmp_path / "a"), Bench(base, tmp_path / "b")
    for seed, kind in enumerate((OptimiserKind.ADAMW, OptimiserKind.SGD, OptimiserKind.ADAFACTOR, OptimiserKind.ADAMW)):
        resumed.restart()
        for bench in (straight, resumed):
            assert bench.train([sft_group(Skill.DETECT, seed)], settings_of(kind)).written
    assert straight.finetune.adapter_digest == resumed.finetune.adapter_digest
    counts = {float(t) for n, t in read_optimiser(straight.step_folder).moments.items() if n.startswith("step.")}
    assert counts == {1.0}


def test_state_of_other_parameters_is_told(base, tmp_path: Path) -> None:
    bench = Bench(base, tmp_path)
    assert bench.train([sft_group(Skill.DETECT, 1)], settings_of(OptimiserKind.SGD)).written
    path = bench.step_folder / "optimizer.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("momentum_buffer."))
    tensors["momentum_buffer.nowhere"] = tensors.pop(name)
    live = LiveFinetune("ft", bench.learner._adapters.parameters(bench.finetune.id))
    del tensors["rng"]
    with pytest.raises(CheckpointCorrupt, match=r"optimizer\.safetensors.*nowhere"):
        load_moments(live.optimiser, OptimiserKind.SGD, live.parameters, tensors)
