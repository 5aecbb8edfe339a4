"""Whether a jail holds: code that tries to get out of it, run as any user's code is.

A layer that the kernel accepted and that lets something through is as missing as one that it refused.
"""

from moontune.values.sandbox import SandboxProfile
from services.reward.sandbox.jail import Jail, JailBroken

ATTEMPTS = """
import os, socket

def attempt(action):
    try:
        action()
    except OSError:
        return 0.0
    return 1.0

def score(sample):
    return {"reward": 0.0, "components": {
        "user": float(os.geteuid() == 0),
        "landlock": attempt(lambda: open("/etc/passwd")),
        "seccomp": max(
            attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
            attempt(lambda: os.kill(os.getppid(), 0)),
            attempt(os.fork),
        ),
        "no_new_privs": attempt(lambda: os.setuid(0)),
    }}
"""
"""One part for each layer: 1 where the attempt that it has to stop went through."""


async def probe(jail: Jail, profile: SandboxProfile) -> dict[str, str]:
    """Layers that something got through, with what did. Nothing is tried under the trusted profile."""
    if profile is SandboxProfile.TRUSTED:
        return {}
    try:
        (verdict,) = await jail.grade(ATTEMPTS, [b"{}"])
    except JailBroken as error:
        return {"rlimits": f"the probe ended the jail: {error.why}"}
    if verdict.reward is None:
        return {"rlimits": f"the probe could not run: {verdict.reason}"}
    return {layer: "the probe got through it" for layer, through in verdict.components.items() if through}
