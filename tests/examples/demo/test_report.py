"""The report from made-up answers on real scenes: every figure is known by hand."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from examples.demo.dataset import write_split
from examples.demo.plan import DIGITS, PREFERENCE, Plan
from examples.demo.report import SceneResult, report_of, write_report
from examples.demo.scores import compare, served_scores
from examples.demo.served import Answer, same
from examples.demo.training import Trained
from moontune.data.coco import read_coco
from moontune.data.predictions import Prediction, prediction_of
from moontune.values.geometry import Box
from moontune.values.job import DatasetSource, Job, JobProgress, JobState
from moontune.values.output import DetectOutput, PointOutput
from moontune.values.skill import Skill

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES = 10
REQUIRED = {
    "metric",
    "base_f1",
    "final_f1",
    "base_f1_075",
    "final_f1_075",
    "difference_ci95",
    "steps",
    "rollouts",
    "seconds",
    "adapter",
    "served_equals_trained",
    "served_differs_from_base",
}


def predictions(folder: Path, plan: Plan, *, right: int, step: int) -> tuple[Prediction, ...]:
    """Perfect answers to the first `right` images and silence to the rest."""
    source = DatasetSource("x", object=plan.asked, category=plan.category)
    samples = read_coco(folder / "annotations.json", source, plan.skill)
    model, digest = f"moontune-tiny/01ARZ3NDEKTSV4RRFFQ69G5FAV@{step}", f"sha256:{step}"
    found = []
    for number, sample in enumerate(samples):
        boxes = (sample.ground_truth.boxes or ()) if number < right else ()
        output = DetectOutput(boxes) if plan.skill is Skill.DETECT else PointOutput(tuple(b.centre for b in boxes))
        found.append(prediction_of(sample, output, model, digest))
    return tuple(found)


def trained(folder: Path, plan: Plan, before: int, after: int, *, shuffled: bool = False) -> Trained:
    write_split(folder, IMAGES, 5, held_out=True, style=plan.style)
    config = dataclasses.replace(plan.job(folder, 0, shuffle_rewards=shuffled), steps=3)
    results = {"n_rollouts": 192.0, "seconds": 12.5}
    model = "moontune-tiny/01ARZ3NDEKTSV4RRFFQ69G5FAV@3"
    job = Job("01J", "local", config, JobState.SUCCEEDED, 3, NOW, NOW, "ft", model, "", results)
    base = {"mixed_group_share": 0.5, "dead_group_share": 0.1, "parse_rate": 1.0, "reward_mean": 0.4}
    history = [
        JobProgress(1, 0, 3, "base", "", base, NOW),
        JobProgress(2, 0, 3, "evaluate", "", {"held_out": 0.3}, NOW),
    ]
    history += [JobProgress(2 + n, n, 3, "train", "", {"reward_mean": 0.1 * n, "loss": 1.0}, NOW) for n in (1, 2, 3)]
    history.append(JobProgress(6, 3, 3, "evaluate", "", {"held_out": 0.6}, NOW))
    return Trained(
        job,
        tuple(history),
        predictions(folder, plan, right=before, step=0),
        predictions(folder, plan, right=after, step=3),
    )


@pytest.fixture
def scenes(tmp_path: Path) -> list[SceneResult]:
    results = []
    for plan in (DIGITS, PREFERENCE):
        run = trained(tmp_path / plan.name, plan, 3, 8)
        answers = [Answer(prediction.output, prediction.adapter_digest) for prediction in run.after]
        served = served_scores(run, answers, [prediction.output for prediction in run.before])
        if plan.known_words:
            served = dataclasses.replace(served, base_known_words=0.625)
        control = trained(tmp_path / "control", plan, 3, 3, shuffled=True) if plan is DIGITS else None
        results.append(SceneResult(plan, (run,), control, served))
    return results


def test_the_report_has_every_figure_and_opens_offline(scenes: list[SceneResult], tmp_path: Path):
    report = report_of(*scenes, seconds=60.0)
    write_report(tmp_path, report, scenes)
    read = json.loads((tmp_path / "report.json").read_text())
    assert set(read) >= REQUIRED
    assert read["metric"] == "f1_iou50"
    assert (read["steps"], read["rollouts"], read["seconds"]) == (3, 192, 12.5)
    assert read["served_equals_trained"] is True
    assert read["served_differs_from_base"] is True
    assert read["adapter"] == "moontune-tiny/01ARZ3NDEKTSV4RRFFQ69G5FAV@3"
    assert read["mixed_group_share_before"] == 0.5
    low, high = read["difference_ci95"]
    assert 0.0 < low < read["final_f1"] - read["base_f1"] < high
    assert read["control"]["difference"] == 0.0
    assert read["preference"]["metric"] == "f1_in_box"
    page = (tmp_path / "report.html").read_text()
    assert read["base_f1_known_words"] == 0.625
    assert "it scores 0.625" in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/jpeg;base64,") == (5 + 5) * 2, "five improved and five unchanged of each scene"
    assert (tmp_path / "reward_curve.png").stat().st_size > 1000
    assert (tmp_path / "digits_improved.png").exists()


def test_f1_by_hand(scenes: list[SceneResult]):
    run = scenes[0].runs[0]
    counts = [len(prediction.ground_truth.boxes or ()) for prediction in run.before]
    found, wanted = sum(counts[:3]), sum(counts)
    assert compare(run, "f1_iou50").base == pytest.approx(2 * found / (found + wanted))


def test_what_was_served_is_held_to_account(tmp_path: Path):
    run = trained(tmp_path / "d", DIGITS, 3, 8)
    base = [prediction.output for prediction in run.before]
    right = [Answer(prediction.output, "sha256:3") for prediction in run.after]
    good = served_scores(run, right, base)
    assert (good.equals_trained, good.differs_from_base, good.different_images) == (True, True, 5)
    assert not served_scores(run, [Answer(run.before[5].output, "sha256:3"), *right[1:]], base).equals_trained
    assert not served_scores(run, [Answer(right[0].output, "sha256:0"), *right[1:]], base).equals_trained
    assert not served_scores(run, right, [answer.output for answer in right]).differs_from_base


def test_equal_answers_have_the_same_boxes_in_the_same_order():
    one, other = Box(0.1, 0.1, 0.2, 0.2), Box(0.5, 0.5, 0.6, 0.6)
    assert same(DetectOutput((one, other)), DetectOutput((one, other)))
    assert not same(DetectOutput((one, other)), DetectOutput((other, one)))
    assert not same(DetectOutput((one,)), DetectOutput((one, other)))
    assert not same(DetectOutput((one,)), DetectOutput((Box(0.1, 0.1, 0.2, 0.2 + 1e-4),)))
