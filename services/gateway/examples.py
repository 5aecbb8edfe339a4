"""Bodies that work, for the OpenAPI document; a test posts every one.

FINETUNE stands for the id of a finetune of the caller's.
"""

from collections.abc import Mapping

from services.gateway.convert import Json

FINETUNE = "01JA00000000000000000000FT"

IMAGE_URL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAADAAAAAwCAIAAADYYG7QAAAAUElEQVR42u3YQQoAIAgEwIz+/2X7QkWE0HgWGdiDYmRm"
    "q1S9FSsgICAgoOqgsdQVcTh+f1GKDAgICAgICAgI6MYJ+/BlIzIgICAgICCg30ETnKwHX2VnrFUAAAAASUVORK5CYII="
)
"""A red square on white, 48 x 48 pixels."""

_BOX: Json = {"x_min": 0.25, "y_min": 0.25, "x_max": 0.64, "y_max": 0.64}
_DETECT: Json = {"skill": "detect", "object": "red square", "image_url": IMAGE_URL}
_POINT: Json = {"skill": "point", "object": "red square", "image_url": IMAGE_URL}
_QUERY: Json = {"skill": "query", "question": "What colour is the square?", "image_url": IMAGE_URL}
_ROLLOUT: Json = {
    "skill": "detect",
    "finish_reason": "stop",
    "output": {"objects": [_BOX]},
    "answer_tokens": [5, 5, 6],
    "thinking_tokens": [],
    "has_answer_separator": False,
    "coords": [455, 455],
    "sizes": [[884, 884]],
}
_SECOND: Json = {**_ROLLOUT, "output": {"objects": []}, "answer_tokens": [], "coords": [], "sizes": []}

_CHAT_TEXT: Json = {"type": "text", "text": "What colour is the square?"}
_CHAT_IMAGE: Json = {"type": "image_url", "image_url": {"url": IMAGE_URL}}
_CHAT: Json = {
    "model": "moondream3-preview",
    "messages": [{"role": "user", "content": [_CHAT_TEXT, _CHAT_IMAGE]}],
}

REQUESTS: Mapping[str, Mapping[str, Json]] = {
    "POST /v1/query": {
        "about an image": {"question": "What colour is the square?", "image_url": IMAGE_URL},
        "streamed": {"question": "What colour is the square?", "image_url": IMAGE_URL, "stream": True},
        "without an image": {"question": "What is two and two?", "settings": {"temperature": 0.0, "max_tokens": 8}},
    },
    "POST /v1/caption": {"short": {"image_url": IMAGE_URL, "length": "short"}},
    "POST /v1/point": {
        "an object": {"object": "red square", "image_url": IMAGE_URL},
        "near a place": {"object": "red square", "image_url": IMAGE_URL, "spatial_refs": [[0.4, 0.4]]},
    },
    "POST /v1/detect": {
        "an object": {"object": "red square", "image_url": IMAGE_URL, "settings": {"max_objects": 10}},
        "named base": {"object": "red square", "image_url": IMAGE_URL, "model": "moondream3-preview"},
    },
    "POST /v1/chat/completions": {
        "text and image": _CHAT,
        "streamed": {**_CHAT, "stream": True, "temperature": 0.0, "max_completion_tokens": 16},
        "a conversation": {
            "messages": [
                {"role": "system", "content": "Answer in one word."},
                {"role": "user", "content": "What is one and one?"},
                {"role": "assistant", "content": "Two"},
                {"role": "user", "content": "And one more?"},
            ]
        },
    },
    "POST /v1/tuning/finetunes": {"rank 8": {"name": "red-squares", "rank": 8}},
    "POST /v1/tuning/rollouts": {
        "scored by boxes": {
            "finetune_id": FINETUNE,
            "num_rollouts": 4,
            "request": _DETECT,
            "ground_truth": {"boxes": [_BOX]},
        },
        "point, scored by boxes": {
            "finetune_id": FINETUNE,
            "num_rollouts": 2,
            "request": _POINT,
            "ground_truth": {"boxes": [_BOX]},
        },
        "query, scored by yourself": {
            "finetune_id": FINETUNE,
            "num_rollouts": 2,
            "request": {**_QUERY, "settings": {"temperature": 1.0, "max_tokens": 8}},
        },
    },
    "POST /v1/tuning/train_step": {
        "reinforced": {
            "finetune_id": FINETUNE,
            "groups": [{"mode": "rl", "request": _DETECT, "rollouts": [_ROLLOUT, _SECOND], "rewards": [1.0, 0.0]}],
            "lr": 0.0002,
        },
        "supervised": {
            "finetune_id": FINETUNE,
            "groups": [{"mode": "sft", "request": _QUERY, "target": {"answer": "red"}}],
            "lr": 0.0002,
        },
        "mixed, with our settings": {
            "finetune_id": FINETUNE,
            "groups": [
                {"mode": "rl", "request": _DETECT, "rollouts": [_ROLLOUT, _SECOND], "rewards": [1.0, 0.0]},
                {"mode": "sft", "request": _DETECT, "target": {"boxes": [_BOX]}},
                {"mode": "sft", "request": _POINT, "target": {"points": [{"x": 0.445, "y": 0.445}]}},
            ],
            "lr": 0.0002,
            "loss": "gspo",
            "kl_weight": 0.01,
        },
    },
    "POST /v1/tuning/finetunes/{finetune_id}/metrics": {
        "an evaluation": {"step": 1, "metrics": {"eval/miou": 0.61, "eval/f1": 0.7}}
    },
}
"""By method and path, then by title."""

_FINETUNE_INFO: Json = {
    "finetune_id": FINETUNE,
    "name": "red-squares",
    "rank": 8,
    "created_at_ms": 1780000000000,
    "updated_at_ms": 1780000060000,
    "step": 1,
    "base": "moontune-tiny",
}
_CHECKPOINT: Json = {
    "checkpoint_id": "01JA00000000000000000000CP",
    "finetune_id": FINETUNE,
    "step": 1,
    "expires_at_ms": None,
    "created_at_ms": 1780000060000,
    "updated_at_ms": 1780000060000,
}

ANSWERS: Mapping[str, Json] = {
    "POST /v1/query": {"answer": "red", "finish_reason": "stop", "request_id": "01JA00000000000000000000RQ"},
    "POST /v1/caption": {"caption": "A red square on white.", "finish_reason": "stop"},
    "POST /v1/point": {"points": [{"x": 0.445, "y": 0.445}], "finish_reason": "stop"},
    "POST /v1/detect": {"objects": [_BOX], "finish_reason": "stop"},
    "POST /v1/chat/completions": {
        "id": "chatcmpl-01JA00000000000000000000CC",
        "object": "chat.completion",
        "created": 1780000000,
        "model": "moondream3-preview",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "red"}, "finish_reason": "stop"}],
    },
    "GET /v1/models": {"object": "list", "data": [{"id": "moontune-tiny", "object": "model", "owned_by": "moontune"}]},
    "POST /v1/tuning/finetunes": {"finetune_id": FINETUNE, "finetune": _FINETUNE_INFO},
    "GET /v1/tuning/finetunes": {"finetunes": [_FINETUNE_INFO], "next_cursor": None, "has_more": False},
    "GET /v1/tuning/finetunes/{finetune_id}": {"finetune": _FINETUNE_INFO},
    "DELETE /v1/tuning/finetunes/{finetune_id}": {"ok": True},
    "POST /v1/tuning/rollouts": {"request": _DETECT, "rollouts": [_ROLLOUT, _SECOND], "rewards": [1.0, 0.0]},
    "POST /v1/tuning/train_step": {
        "step": 1,
        "applied": True,
        "kl": 0.0,
        "router_kl": None,
        "grad_norm": 0.8,
        "sft_loss": None,
        "reward_mean": 0.5,
        "reward_std": 0.5,
    },
    "POST /v1/tuning/finetunes/{finetune_id}/metrics": {"ok": True, "step": 1, "logged_count": 2},
    "GET /v1/tuning/finetunes/{finetune_id}/checkpoints": {
        "checkpoints": [_CHECKPOINT],
        "next_cursor": None,
        "has_more": False,
    },
    "POST /v1/tuning/finetunes/{finetune_id}/checkpoints/save": {"ok": True, "checkpoint": _CHECKPOINT},
    "DELETE /v1/tuning/finetunes/{finetune_id}/checkpoints/{step}": {"ok": True},
    "GET /v1/tuning/finetunes/{finetune_id}/checkpoints/{step}/download": {
        "url": "http://127.0.0.1:8080/v1/downloads/...",
        "expires_in": 3600,
        "format": "peft",
    },
    "GET /v1/tuning/finetunes/{finetune_id}/train_logs": {
        "steps": [{"id": "000000001-rl=1-sft=2.json", "step": 1, "metadata": {"rl": 1, "sft": 2}}],
        "next_cursor": None,
        "has_more": False,
    },
    "GET /v1/tuning/finetunes/{finetune_id}/train_logs/{file_id}": {
        "step": 1,
        "metadata": {"rl": 1, "sft": 2},
        "metrics": {"reward_mean": 0.5},
    },
}
"""What a call answers, as an example."""
