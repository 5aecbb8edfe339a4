"""The engine as a component of a model worker: `WorkerSpec(components={"engine": "moontune.engine.worker:build"})`.

Rollout and inference name it alike, so that in one process they share one engine.
"""

from moontune.engine.engine import Engine
from moontune.engine.settings import EngineSettings
from moontune.model.base_model import BaseModel


def build(base: BaseModel, options: EngineSettings | None) -> Engine:
    """The engine over a loaded base."""
    return Engine(base, options)
