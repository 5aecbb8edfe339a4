"""Several services in one process: which may, over which worker, and that the front stays free of torch."""

import subprocess
import sys

import pytest

from moontune.serving.settings import StartupError
from moontune.serving.worker_protocol import WorkerSpec
from services.__main__ import chosen, shared_worker
from services.inference.config import InferenceSettings
from services.rollout.config import RolloutSettings
from services.trainer.__main__ import worker as trainer_worker
from services.trainer.config import TrainerSettings


def test_the_services_are_named_once_each() -> None:
    assert chosen(["--colocate", "rollout,trainer"]) == ["rollout", "trainer"]
    assert chosen(["--colocate=inference,rollout,trainer"]) == ["inference", "rollout", "trainer"]
    for argv in ([], ["--colocate"], ["--colocate", "rollout"], ["--colocate", "rollout,reward"], ["rollout,trainer"]):
        with pytest.raises(StartupError, match=r"usage: python -m services --colocate"):
            chosen(argv)
    with pytest.raises(StartupError, match="given: --colocate rollout,rollout"):
        chosen(["--colocate", "rollout,rollout"])


def test_one_worker_holds_every_component() -> None:
    rollout, trainer, inference = RolloutSettings(), TrainerSettings(), InferenceSettings()
    spec = shared_worker(
        {"rollout": rollout.worker(), "trainer": trainer_worker(trainer), "inference": inference.worker()}
    )
    assert spec.components == {
        "engine": "moontune.engine.worker:build",
        "learner": "services.trainer.learner:build",
        "forms": "services.trainer.forms:build",
    }
    assert set(spec.options) == {"engine", "learner"}


def test_the_base_device_and_threads_must_agree() -> None:
    with pytest.raises(StartupError, match="rollout has base 'a' and trainer has 'b'; one worker has one base"):
        shared_worker({"rollout": WorkerSpec("a"), "trainer": WorkerSpec("b")})
    with pytest.raises(StartupError, match="rollout has threads 1 and trainer has 2"):
        shared_worker({"rollout": WorkerSpec("a", threads=1), "trainer": WorkerSpec("a", threads=2)})


def test_the_front_never_imports_torch() -> None:
    code = (
        "import sys, services.__main__, moontune.engine.order, moontune.engine.settings, moontune.engine.naming\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'peft', 'tokenizers')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
