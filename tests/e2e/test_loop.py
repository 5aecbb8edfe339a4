"""The whole loop through the services that `moontune up` starts: attempts, own scores, steps, a save, serving."""

import base64

import httpx
import pytest

from examples.demo.stack import running
from examples.own_loop import picture, train
from moontune.clients.sync import SyncRolloutClient, SyncTrainerClient

STEPS = 8


def beside(jobs: str, service: int) -> str:
    """Address of the service that `moontune up` put at this offset of its five ports; jobs is the fifth."""
    host, port = jobs.rsplit(":", 1)
    return f"{host}:{int(port) - 5 + service}"


def pointed(gateway: str, model: str) -> list[tuple[dict[str, float], ...]]:
    """Greedy points of a model on the eight pictures, through the HTTP gateway."""
    answers: list[tuple[dict[str, float], ...]] = []
    for index in range(8):
        data = base64.b64encode(picture(index).data or b"").decode()
        body = {"model": model, "image_url": f"data:image/png;base64,{data}", "object": "lucky shape"}
        response = httpx.post(f"{gateway}/v1/point", json=body, timeout=60)
        assert response.status_code == 200, response.text
        answers.append(tuple(response.json()["points"]))
    return answers


def left_share(answers: list[tuple[dict[str, float], ...]]) -> float:
    points = [point for answer in answers for point in answer]
    return sum(point["x"] < 0.5 for point in points) / max(1, len(points))


@pytest.mark.timeout(240)
def test_a_score_alone_moves_the_policy_and_the_result_is_served_without_the_trainer(tmp_path) -> None:
    with running("moontune-tiny", tmp_path) as stack:
        with (
            SyncTrainerClient(beside(stack.jobs, 3)) as trainer,
            SyncRolloutClient(beside(stack.jobs, 1)) as rollouts,
        ):
            scores = train(trainer, rollouts, "left", STEPS)
            finetune = trainer.list_finetunes().items[0]
            saved = trainer.save_checkpoint(finetune.id)
        model = f"{finetune.base}/{finetune.id}@{saved.step}"
        base = pointed(stack.gateway, finetune.base)
        served = pointed(stack.gateway, model)
    assert sum(scores[-2:]) / 2 > sum(scores[:2]) / 2 + 0.15, f"the score did not rise: {scores}"
    assert left_share(served) > left_share(base) + 0.15

    with running("moontune-tiny", tmp_path, without=("trainer", "rollout", "jobs", "reward")) as stack:
        assert pointed(stack.gateway, model) == served
        assert pointed(stack.gateway, finetune.base) == base
