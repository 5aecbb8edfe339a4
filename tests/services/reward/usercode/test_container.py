"""Container rewards in a real Docker daemon: MOONTUNE_TEST_DOCKER_HOST names one, and a static busybox is the image."""

import importlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from moontune.errors import InvalidField, Unavailable
from moontune.values.ground_truth import GroundTruth
from moontune.values.output import QueryOutput
from moontune.values.request import SkillRequest
from moontune.values.reward import RewardSample
from moontune.values.reward_definition import ContainerReward
from moontune.values.skill import Skill
from services.reward.sandbox.verdict import Failure
from services.reward.usercode.container import Containers, ContainerSource

pytestmark = pytest.mark.slow
HOST = os.environ.get("MOONTUNE_TEST_DOCKER_HOST", "")
BUSYBOX = os.environ.get("MOONTUNE_TEST_BUSYBOX") or shutil.which("busybox")

LOOP = "while read line; do case $line in *boom*) exit 3;; *slow*) sleep 60;; *junk*) echo nonsense;; {};; esac; done"


@pytest.fixture
def containers():
    if not HOST:
        pytest.skip("no Docker daemon: MOONTUNE_TEST_DOCKER_HOST is not set")
    if BUSYBOX is None:
        pytest.skip("no static busybox to make an image of: MOONTUNE_TEST_BUSYBOX is not set")
    containers = Containers(HOST)
    yield containers
    containers.close()


@pytest.fixture
def image(containers):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name in ("sh", "sleep", "id", "cat", "wget", "touch", "grep"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("tmp", "proc", "dev", "etc", "sys"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    daemon = importlib.import_module("docker").DockerClient(base_url=HOST)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"moontune-test-{os.getpid()}.tar"
    path.write_bytes(data.getvalue())
    try:
        daemon.api.import_image_from_file(str(path), repository="moontune-test", tag="latest")
        yield daemon.images.get("moontune-test:latest").id
    finally:
        path.unlink()
        daemon.close()


def answers(*texts):
    request = SkillRequest(Skill.QUERY, question="?")
    return [RewardSample(request, QueryOutput(text), GroundTruth(answers=("red",))) for text in texts]


def source(containers, image, answer="*) echo 0.5", timeout_s=20.0):
    command = ("/bin/sh", "-c", LOOP.replace("{}", answer))
    return ContainerSource(containers, "ours", ContainerReward(image, command, timeout_s))


async def test_lines_in_lines_out_and_a_broken_sample_is_alone(containers, image):
    verdicts = await source(containers, image).score(answers("a", "boom", "junk", "b"), {})
    assert [verdict.reward for verdict in verdicts] == [0.5, None, None, 0.5]
    assert [verdict.failure for verdict in verdicts[1:3]] == [Failure.CRASHED, Failure.BAD_RESULT]
    (late,) = await source(containers, image, timeout_s=2.0).score(answers("slow"), {})
    assert late.failure is Failure.TIME_LIMIT


async def test_a_container_stays_warm_and_is_held(containers, image):
    probes = {
        "nobody": "id -u",
        "reads only": "touch /x 2>/dev/null && echo 1 || echo 0.25",
        "no capabilities": 'grep -q "CapEff:.0000000000000000" /proc/self/status && echo 0.25 || echo 1',
        "no new privileges": 'grep -q "NoNewPrivs:.1" /proc/self/status && echo 0.25 || echo 1',
        "no network": "grep -q eth /proc/net/dev && echo 1 || echo 0.25",
    }
    for name, probe in probes.items():
        (verdict,) = await source(containers, image, f"*) {probe}").score(answers("a"), {})
        assert verdict.reward == (65534.0 if name == "nobody" else 0.25), name
    counting = source(containers, image, "*) n=$((n+1)); echo $n")
    counts = [(await counting.score(answers("a"), {}))[0].reward for _ in range(3)]
    assert counts == [1.0, 2.0, 3.0]


def test_an_image_has_to_be_there_and_pinned(containers, image):
    containers.check(image)
    for wrong in ("moontune-test:latest", f"moontune-test@sha256:{'0' * 64}"):
        with pytest.raises(InvalidField):
            containers.check(wrong)
    with pytest.raises(Unavailable):
        containers.take("ours", ContainerReward(image, ("/bin/nothing",)))
