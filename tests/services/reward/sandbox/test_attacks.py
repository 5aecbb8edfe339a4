"""Real attacks on a real jail. Each ends as a typed failure of its own sample; the jail goes on as it was.

Under `pod` the jail is an unprivileged uid without capabilities, whoever runs the tests; under `host` bubblewrap is
around it. Where a layer is not to be had on this machine the tests say which one and skip.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from moontune.values.reward_definition import CodeLanguage
from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox.jail import Jail
from services.reward.sandbox.limits import MIB, SandboxLimits
from services.reward.sandbox.sandbox import Sandbox
from services.reward.sandbox.verdict import Failure
from tests.services.reward.sandbox import javascript_attacks, python_attacks

LIMITS = SandboxLimits(cpu_s=0.25, wall_s=20.0, memory_bytes=160 * MIB)
PYTHON, JAVASCRIPT = CodeLanguage.PYTHON, CodeLanguage.JAVASCRIPT


@pytest.fixture(params=[SandboxProfile.POD, SandboxProfile.HOST])
async def profile(request):
    await _require(request.param)
    return request.param


async def _require(profile, _known={}):  # noqa: B006  (asked once for each profile)
    if profile not in _known:
        sandbox = Sandbox(profile, SandboxLimits(), 1)
        _known[profile] = await sandbox.status()
        await sandbox.close()
    status = _known[profile]
    if not status.user_code_allowed:
        missing = [f"{layer.name}: {layer.detail}" for layer in status.layers if layer.required and not layer.active]
        assert "probe" not in str(missing), f"a layer is there and does not hold: {missing}"
        pytest.skip(f"the {profile} profile is not to be had here, missing are {missing}")


@pytest.fixture
def told(tmp_path):
    """Something worth getting at: a secret that anyone may read, listeners, a process of the jail's own user."""
    tmp_path.chmod(0o755)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o644)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        path = str(tmp_path / "s")
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(path)
        unix.listen()
        victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        wanted = {
            "secret": str(secret),
            "link": str(tmp_path / "link"),
            "source": str(Path(python_attacks.__file__).resolve()),
            "port": port.getsockname()[1],
            "unix": path,
            "victim": victim.pid,
        }
        yield wanted
        assert victim.poll() is None, "an attack ended a process outside"
        victim.communicate(b"\n")
        assert secret.read_text() == "secret"


def kernel_status(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def remove_link(told):
    Path(told["link"]).unlink(missing_ok=True)


def python_source(attack):
    body = textwrap.indent(attack.body, "        ")
    return f"def score(sample):\n    told = sample['parameters']\n    if told['attack']:\n{body}\n    return 0.25\n"


def javascript_source(attack):
    return f"function reward(out, gt, more) {{ if (more.parameters.attack) {{ {attack.body} }}\n return 0.25; }}"


def samples(told, *attacking):
    return [
        json.dumps({"output": {}, "ground_truth": {}, "parameters": {**told, "attack": attack}}).encode()
        for attack in attacking
    ]


async def attacked(jail, source, attack, told):
    """A good sample, the attack, a good sample; then once more with the same jail: it must be what it was."""
    before, hit, after = await jail.grade(source, samples(told, False, True, False))
    assert hit.reward is None, f"{attack.name} got through: {hit}"
    assert hit.failure in {Failure[name] for name in attack.failures}, hit
    assert (before.reward, after.reward) == (0.25, 0.25), (before, after)
    harmless = "def score(sample): return 0.75" if "def score" in source else "const reward = () => 0.75"
    (again,) = await jail.grade(harmless, samples(told, False))
    assert again.reward == 0.75


async def test_every_attack_in_python(profile, told, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "TOKEN")
    jail = await Jail.start(PYTHON, profile, LIMITS)
    try:
        for attack in python_attacks.ALL:
            await attacked(jail, python_source(attack), attack, told)
    finally:
        await jail.close()


async def test_every_attack_in_javascript(profile, told):
    jail = await Jail.start(JAVASCRIPT, profile, LIMITS)
    try:
        for attack in javascript_attacks.ALL:
            await attacked(jail, javascript_source(attack), attack, told)
    finally:
        await jail.close()


async def test_the_attacks_are_real(told):
    """Without walls they get what they want: what stops them above is the sandbox and not a mistake of theirs."""
    jail = await Jail.start(PYTHON, SandboxProfile.TRUSTED, LIMITS)
    try:
        for attack in python_attacks.ALL:
            if attack.control:
                (verdict,) = await jail.grade(python_source(attack), samples(told, True))
                assert verdict.reward == 1.0, f"{attack.name}: {verdict}"
                remove_link(told)
    finally:
        await jail.close()


async def test_waiting_is_limited_by_the_clock(profile):
    source = "import time\ndef score(sample):\n    time.sleep(60 * sample['parameters']['attack'])\n    return 0.25"
    limits = SandboxLimits(cpu_s=5.0, wall_s=2.0)
    jail = await Jail.start(PYTHON, profile, limits)
    try:
        first, hit, last = await jail.grade(source, samples({}, False, True, False))
    finally:
        await jail.close()
    assert (first.reward, hit.failure, last.reward) == (0.25, Failure.TIME_LIMIT, 0.25)


async def test_the_environment_is_empty_of_ours(profile, monkeypatch):
    monkeypatch.setenv("MOONTUNE_SECRET", "secret")
    source = "import os\ndef score(sample): return {'reward': 0, 'reason': ' '.join(sorted(os.environ))}"
    jail = await Jail.start(PYTHON, profile, LIMITS)
    try:
        (verdict,) = await jail.grade(source, samples({}, False))
    finally:
        await jail.close()
    allowed = {
        "LC_ALL",
        "LC_CTYPE",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PYTHONHASHSEED",
        "PWD",
    }
    assert set(verdict.reason.split()) <= allowed


async def test_the_jail_is_unprivileged_as_the_kernel_sees_it():
    await _require(SandboxProfile.POD)
    jail = await Jail.start(PYTHON, SandboxProfile.POD, LIMITS)
    try:
        status = kernel_status(jail.pid)
    finally:
        await jail.close()
    assert set(status["Uid"].split()) == {str(os.getuid() or 65534)}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


POISON = """
import builtins, json, sys, numpy, random
def score(sample):
    builtins.len = builtins.max = builtins.float = None
    json.loads = json.dumps = lambda *_: '{"reward": 0}'
    numpy.pi = 3
    sys.modules["services.reward.sandbox.inside.frames"].write_frame = None
    return 0.25
"""
VICTIM = """
import json, numpy
def score(sample):
    assert sample["ground_truth"] == {"answers": ["a"]}
    sample["ground_truth"]["answers"].clear()
    return float(len(json.loads("[1]")) == 1 and max(1, 2) == 2 and numpy.pi > 3.1)
"""


async def test_nothing_of_a_batch_reaches_the_next(profile):
    jail = await Jail.start(PYTHON, profile, LIMITS)
    sample = b'{"output": {}, "ground_truth": {"answers": ["a"]}}'
    try:
        for _ in range(2):
            poisoned = await jail.grade(POISON, [sample] * 3)
            assert len(poisoned) == 3
            # Within a batch each sample is read anew too: what one does to its ground truth is its own.
            assert [verdict.reward for verdict in await jail.grade(VICTIM, [sample] * 3)] == [1.0] * 3
    finally:
        await jail.close()


async def test_every_sample_in_javascript_has_a_context_of_its_own(profile):
    source = """
    var seen = 0;
    function reward(out, gt) {
      const clean = seen++ === 0 && Object.prototype.poison === undefined && Math.max(1, 2) === 2;
      Object.prototype.poison = 1; Math.max = () => 0; globalThis.seen = 9; JSON.parse = null;
      return clean ? 1 : 0;
    }"""
    jail = await Jail.start(JAVASCRIPT, profile, LIMITS)
    try:
        assert [verdict.reward for verdict in await jail.grade(source, samples({}, *[False] * 5))] == [1.0] * 5
    finally:
        await jail.close()


async def test_answers_for_other_samples_stay_within_the_batch(profile):
    """Code can write answers itself; as many as the batch has samples are taken, and the next batch is another's."""
    source = """
import os, struct
def score(sample):
    fake = b'{"reward": 0.5}'
    for fd in range(3, 64):
        try: os.write(fd, (struct.pack(">I", len(fake)) + fake) * 1000)
        except OSError: pass
    while True: pass
"""
    jail = await Jail.start(PYTHON, profile, LIMITS)
    try:
        assert [verdict.reward for verdict in await jail.grade(source, samples({}, True, True))] == [0.5, 0.5]
        assert [v.reward for v in await jail.grade("def score(s): return 1", samples({}, False))] == [1.0]
    finally:
        await jail.close()


async def test_a_batch_of_attacks_is_given_up(profile):
    limits = SandboxLimits(cpu_s=0.05, wall_s=20.0)
    jail = await Jail.start(PYTHON, profile, limits)
    try:
        verdicts = await jail.grade("def score(sample):\n    while True: pass", samples({}, *[True] * 40))
    finally:
        await jail.close()
    failures = [verdict.failure for verdict in verdicts]
    assert failures == [Failure.CPU_LIMIT] * 8 + [Failure.GAVE_UP] * 32


def test_a_jail_ends_with_its_service():
    """Killed without a word, the service leaves no jail behind."""
    asyncio.run(_require(SandboxProfile.POD))
    script = """
import asyncio, sys
from moontune.values.reward_definition import CodeLanguage
from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox.jail import Jail
from services.reward.sandbox.limits import SandboxLimits
async def main():
    jail = await Jail.start(CodeLanguage.PYTHON, SandboxProfile.POD, SandboxLimits())
    print(jail.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    service = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    jail_pid = int(service.stdout.readline())
    service.kill()
    service.communicate()
    deadline = time.monotonic() + 60
    while _alive(jail_pid):
        assert time.monotonic() < deadline, "the jail outlives its service"
        time.sleep(0.02)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_machine_too_busy_at_first_is_looked_at_again(monkeypatch):
    await _require(SandboxProfile.POD)
    sandbox = Sandbox(SandboxProfile.POD, SandboxLimits(hello_s=1e-6), 1)
    try:
        assert not (await sandbox.status()).user_code_allowed
        sandbox._limits = SandboxLimits()
        assert not (await sandbox.status()).user_code_allowed  # not at once: each look costs a process
        monkeypatch.setattr("services.reward.sandbox.sandbox.LOOK_AGAIN_S", 0.0)
        assert (await sandbox.status()).user_code_allowed
    finally:
        await sandbox.close()
