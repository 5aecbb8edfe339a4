"""A chat's messages as one question about one image: our families answer single questions.

A lone user turn is its own text. Of a longer conversation the earlier turns stand before the last one, each with its
role, and system turns first, as plain text: the base was not trained on conversations, and is told no more than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from moontune.errors import InvalidField
from services.gateway.schemas import ChatMessageBody, TextPart

_NAMES = {"user": "User", "assistant": "Assistant"}


@dataclass(frozen=True, slots=True)
class Conversation:
    """The question, and the data URL of its image with the field that held it."""

    question: str
    image_url: str | None
    image_field: str


def conversation_of(messages: Sequence[ChatMessageBody]) -> Conversation:
    """Read the turns of a request.

    Raises:
        InvalidField: the last turn is not the user's, has no text, or there is more than one image.
    """
    last = len(messages) - 1
    if messages[last].role != "user":
        raise InvalidField.of(f"messages[{last}].role", messages[last].role, "user, in the last message")
    images: list[tuple[str, str]] = []
    texts = [_text(message, f"messages[{index}]", images) for index, message in enumerate(messages)]
    if not texts[last].strip():
        raise InvalidField.of(f"messages[{last}].content", texts[last], "text that is not blank")
    if len(images) > 1:
        raise InvalidField.of(images[1][1], f"{len(images)} images", "at most one image in a conversation")
    image_url, field = images[0] if images else (None, "messages")
    return Conversation(_question(messages, texts), image_url, field)


def _text(message: ChatMessageBody, field: str, images: list[tuple[str, str]]) -> str:
    """The words of a turn; its images are added to `images` with their fields."""
    words: list[str] = []
    for index, part in enumerate(message.content):
        if isinstance(part, TextPart):
            words.append(part.text)
        elif message.role != "user":
            raise InvalidField.of(f"{field}.content[{index}]", part.type, f"text in a turn of the {message.role}")
        else:
            images.append((part.image_url.url, f"{field}.content[{index}].image_url.url"))
    return "\n".join(words)


def _question(messages: Sequence[ChatMessageBody], texts: Sequence[str]) -> str:
    system = [text for message, text in zip(messages, texts, strict=True) if message.role not in _NAMES and text]
    turns = [
        (_NAMES[message.role], text) for message, text in zip(messages, texts, strict=True) if message.role in _NAMES
    ]
    if len(turns) == 1:
        return "\n".join([*system, turns[0][1]])
    return "\n".join([*system, *(f"{name}: {text}" for name, text in turns)])
