"""`moontune rewards` against a real reward service, and answers by a real rollout service."""

import json
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from PIL import Image as Pil

from moontune.cli.reward_trial import TrialOptions, answered, generated
from moontune.cli.stack.plan import PORT_OFFSETS
from moontune.clients.reward import RewardClient
from moontune.data.predictions import Prediction, write_predictions
from moontune.serving.server import ServiceApp, opened
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.output import DetectOutput
from moontune.values.skill import Skill
from services.reward.catalogue import CATALOGUE
from services.reward.config import RewardSettings
from services.reward.servicer import build
from tests.moontune.cli.test_commands import moontune
from tests.services.model_stack import model_stack, picture

LEFT, RIGHT = Box(0.0, 0.0, 0.5, 1.0), Box(0.5, 0.0, 1.0, 1.0)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    settings = RewardSettings(port=0)

    async def start(chassis):
        await build(chassis, settings)

    async with opened([ServiceApp("reward", settings, start)]) as [chassis]:
        yield f"127.0.0.1:{chassis.port - PORT_OFFSETS['reward']}"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Two pictures, three answers to each: one hits, one is half right, one is silent."""
    file = tmp_path / "answers.jsonl"
    predictions = []
    for seed in range(2):
        image = tmp_path / f"{seed}.png"
        image.write_bytes(picture(seed).data or b"")
        sha256 = Image.of(image.read_bytes()).sha256
        predictions += [
            Prediction(image, sha256, Skill.DETECT, "cup", DetectOutput(said), GroundTruth(boxes=(LEFT,)), "m", "d")
            for said in ((LEFT,), (LEFT, RIGHT), ())
        ]
    write_predictions(file, predictions)
    return file


async def test_list_and_show(server: str):
    listed = await moontune("rewards", "list", "--server", server, "--json")
    records = {record["name"]: record for record in map(json.loads, listed.stdout.splitlines())}
    assert set(records) == set(CATALOGUE)
    assert records["soft_f_beta"]["parameters"]["properties"]["beta"]["maximum"] == 10.0
    assert "matched_iou" in (await moontune("rewards", "list", "--server", server)).stdout
    shown = (await moontune("rewards", "show", "giou", "--server", server)).stdout
    assert "-1 to 1" in shown
    assert "Beware: its range is twice" in shown
    missing = await moontune("rewards", "show", "nothing", "--server", server)
    assert missing.exit_code == 1
    assert "no reward is named 'nothing'" in missing.stderr


async def test_try_grades_answers_of_a_file_and_draws_them(server: str, answers: Path, tmp_path: Path):
    sheet = tmp_path / "out" / "examples.png"
    arguments = ("rewards", "try", "matched_iou", "--answers", str(answers), "--server", server)
    result = await moontune(*arguments, "--json", "--pictures", str(sheet))
    report = json.loads(result.stdout)
    assert (report["samples"], report["mean"], report["dead_group_share"]) == (6, pytest.approx(0.5), 0.0)
    probes = {probe["name"]: probe["mean"] for probe in report["probes"]}
    assert probes["truth"] == 1.0
    assert probes["silence"] == 0.0
    assert probes["whole"] == 0.5
    assert {example["reward"] for example in report["examples"]} == {0.0, 0.5, 1.0}
    # The picture shows the labels (green) and what was said (magenta).
    with Pil.open(sheet) as opened_sheet:
        colours = {colour for _, colour in opened_sheet.convert("RGB").getcolors(1 << 24) or ()}
    assert {(0, 200, 60), (255, 40, 220)} <= colours
    shown = await moontune(*arguments)
    assert "dead groups" in shown.stdout
    assert "around the whole image is paid 0.5 on average" in " ".join(shown.stdout.split())


async def test_try_says_what_is_missing_or_wrong(server: str, answers: Path):
    neither = await moontune("rewards", "try", "matched_iou", "--server", server)
    assert neither.exit_code == 1
    assert "--samples" in neither.stderr
    both = await moontune("rewards", "try", "x.py", "--answers", "a", "--samples", "b", "--server", server)
    assert both.exit_code == 1
    assert "one of them" in both.stderr
    typo = await moontune("rewards", "try", "matched_iuo", "--answers", str(answers), "--server", server)
    assert typo.exit_code == 1
    assert "reward.components[0].name is 'matched_iuo'" in typo.stderr


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Count Boxes.py", "def score(sample): return float(len(sample['output']['objects']) - 1)"),
        ("count.js", "const reward = (out, gt) => out.objects.length - gt.boxes.length"),
    ],
)
async def test_code_in_a_file_is_tried_without_registering_it(server: str, answers: Path, tmp_path: Path, name, code):
    file = tmp_path / name
    file.write_text(code)
    arguments = ("rewards", "try", str(file), "--answers", str(answers), "--server", server, "--json")
    result = await moontune(*arguments, "--reward-range", "-1", "60")
    if "a layer is missing" in result.stderr:
        pytest.skip(result.stderr)
    report = json.loads(result.stdout)
    assert (report["samples"], report["failed_rate"], report["mean"]) == (6, 0.0, 0.0)
    assert {probe["name"]: probe["mean"] for probe in report["probes"]}["everything"] == 25.0
    assert any("Saying everything is paid 25" in warning for warning in report["warnings"])
    out_of_range = json.loads((await moontune(*arguments)).stdout)
    assert out_of_range["failed_rate"] == pytest.approx(1 / 3)
    listed = await moontune("rewards", "list", "--server", server, "--json")
    assert len(listed.stdout.splitlines()) == len(CATALOGUE)


async def test_code_that_does_not_load_is_refused_before_a_grade(server: str, answers: Path, tmp_path: Path):
    file = tmp_path / "broken.py"
    file.write_text("def score(sample) return 1")
    result = await moontune("rewards", "try", str(file), "--answers", str(answers), "--server", server)
    if "a layer is missing" in result.stderr:
        pytest.skip(result.stderr)
    assert result.exit_code == 1
    assert "line 1: SyntaxError" in result.stderr


async def test_the_current_policy_answers_the_samples(tmp_path: Path):
    lines = []
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed).data or b"")
        lines.append(json.dumps({"image": f"{seed}.png", "object": "cup", "boxes": [[0.1, 0.1, 0.6, 0.6]]}))
    samples = tmp_path / "samples.jsonl"
    samples.write_text("\n".join(lines))
    reward = tmp_path / "reward.yaml"
    reward.write_text("components: [{name: soft_f_beta, parameters: {beta: 2}}, {name: soft_overlong, weight: 0.5}]")
    async with (
        model_stack(tmp_path / "stack") as stack,
        RewardClient(f"127.0.0.1:{stack.chassis['reward'].port}") as client,
    ):
        options = TrialOptions(str(reward), samples, None, Skill.DETECT, "", "tiny-fake", 4, 2)
        asked = await generated(stack.rollout, options)
        trial = await answered(client, asked)
    assert [len(group.outputs) for group in asked.groups] == [4, 4]
    assert trial.report.samples == 8
    # Tokens came with the rollouts, so that length could be scored.
    assert set(trial.report.examples[0].result.components) == {"soft_f_beta", "soft_overlong"}


async def test_import_prints_a_reward_and_what_could_not_be_carried(server: str, tmp_path: Path):
    grader = tmp_path / "grader.json"
    grader.write_text(
        json.dumps(
            {
                "type": "multi",
                "calculate_output": "(0.75 * a + 0.25 * b) * c",
                "graders": {
                    "a": {"type": "string_check", "operation": "eq", "input": "{{sample.output_text}}",
                          "reference": "{{item.label}}"},
                    "b": {"type": "python", "source": "def grade(sample, item):\n    return 1.0\n"},
                    "c": {"type": "string_check", "operation": "ilike", "input": "{{ sample.output_text }}",
                          "reference": "cm"},
                    "d": {"type": "text_similarity", "evaluation_metric": "bleu", "input": "{{sample.output_text}}",
                          "reference": "{{item.label}}"},
                },
            }
        )
    )  # fmt: skip
    out = tmp_path / "reward.yaml"
    result = await moontune("rewards", "import", str(grader), "--out", str(out), "--server", server)
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load(out.read_text()) == yaml.safe_load(
        textwrap.dedent("""
            reward:
              components:
                - {name: exact_match, weight: 0.75}
                - {name: b, weight: 0.25}
                - {name: regex, gate: true, parameters: {pattern: cm, whole: false, ignore_case: true}}
        """)
    )
    for part in ("b (python): to be registered first", "eq is case-sensitive", "'bleu' is not carried"):
        assert part in result.stdout
