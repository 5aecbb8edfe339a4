"""The services' words in those of the HTTP API.

A service names protobuf fields (`input.images[0]`) and rpcs (`SaveCheckpoint`); a caller over HTTP has sent neither.
"""

import re

TUNING = "/v1/tuning"

_FIELDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^header\.settings\.learning_rate$", "lr"),
        (r"^header\.settings\.", ""),
        (r"^(header|input|task|order)\.", ""),
        (r"^lora\.rank$", "rank"),
        (r"^rollout_count$", "num_rollouts"),
        (r"^page_token$", "cursor"),
        (r"^points\[\d+\]\.(name|value)$", "metrics"),
        (r"^(groups\[\d+\])\.(rl|sft)(?=\.|$)", r"\1"),
        (r"^(groups\[\d+\])\.ground_truth(?=\.|$)", r"\1.target"),
        (r"^(groups\[\d+\])\.answer(?=\.|$)", r"\1.target"),
        (r"(rollouts\[\d+\])\.rollout(?=\.|$)", r"\1"),
        (r"(^|\.)images?(\[\d+\])?(?=\.|$)", r"\1image_url"),
    )
)

_RPCS = {
    "SaveCheckpoint": f"POST {TUNING}/finetunes/{{finetune_id}}/checkpoints/save",
    "ListCheckpoints": f"GET {TUNING}/finetunes/{{finetune_id}}/checkpoints",
    "CreateFinetune": f"POST {TUNING}/finetunes",
    "GenerateRollouts": f"POST {TUNING}/rollouts",
    "TrainStep": f"POST {TUNING}/train_step",
    "ListModels": "GET /v1/models",
}
_RPC = re.compile(rf"\b(?:(?:Trainer|Rollout|Inference)Service[./])?({'|'.join(_RPCS)})\b")


def http_field(path: str) -> str:
    """The HTTP field that a service's field came from: `groups[0].rl.rollouts[1].policy` -> `groups[0].rollouts[1]...`.

    A path without a counterpart stays as it is.
    """
    for pattern, replacement in _FIELDS:
        path = pattern.sub(replacement, path)
    return path


def http_message(message: str, field: str) -> str:
    """A message with its field, and every rpc that it tells to call, as the HTTP API names them."""
    if field:
        message = message.replace(field, http_field(field))
    message = message.replace("input.model", "model")
    return _RPC.sub(lambda match: _RPCS[match[1]], message)
