"""A reward in a file of one's own: `my_reward.py` with `score(sample)`, or `my_reward.js` with `reward(out, gt)`."""

import re
from collections.abc import Sequence
from pathlib import Path

from moontune.errors import InvalidField
from moontune.values.reward_definition import CodeLanguage, RewardDefinition, UserCode
from moontune.values.skill import Skill

LANGUAGES = {".py": CodeLanguage.PYTHON, ".js": CodeLanguage.JAVASCRIPT, ".mjs": CodeLanguage.JAVASCRIPT}
MAX_FILE_BYTES = 256 * 1024


def is_reward_code(file: Path) -> bool:
    """Whether the name says that it is code for the sandbox."""
    return file.suffix in LANGUAGES


def read_reward_code(
    file: Path, skills: Sequence[Skill], minimum: float = 0.0, maximum: float = 1.0
) -> RewardDefinition:
    """The definition in a file, named after it. minimum, maximum: the range of its results."""
    if not is_reward_code(file) or not file.is_file():
        raise InvalidField.of("reward", str(file), f"a file that exists, named {', '.join(LANGUAGES)}")
    if file.stat().st_size > MAX_FILE_BYTES:
        raise InvalidField.of("reward", f"{file.stat().st_size} bytes", f"at most {MAX_FILE_BYTES} bytes")
    try:
        source = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidField.of("reward", file.name, f"UTF-8 text ({error.reason})") from None
    if not minimum < maximum:
        raise InvalidField.of("reward_range", (minimum, maximum), "two numbers, the smaller one first")
    name = re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-")[:64] or "reward"
    code = UserCode(LANGUAGES[file.suffix], source)
    return RewardDefinition(name, tuple(skills), code, f"code in {file.name}", minimum, maximum)
