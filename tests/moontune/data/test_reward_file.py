"""Rewards in files of one's own."""

import pytest

from moontune.data.reward_file import read_reward_code
from moontune.errors import InvalidField
from moontune.values.reward_definition import CodeLanguage, UserCode
from moontune.values.skill import Skill


@pytest.mark.parametrize(
    ("file", "name", "language"),
    [
        ("my_reward.py", "my_reward", CodeLanguage.PYTHON),
        ("My Reward (2).js", "my-reward-2", CodeLanguage.JAVASCRIPT),
        ("count.mjs", "count", CodeLanguage.JAVASCRIPT),
    ],
)
def test_a_definition_is_named_after_its_file(tmp_path, file, name, language):
    path = tmp_path / file
    path.write_text("code")
    definition = read_reward_code(path, [Skill.QUERY], -1.0, 2.0)
    assert definition.name == name
    assert definition.source == UserCode(language, "code")
    assert (definition.minimum, definition.maximum, definition.skills) == (-1.0, 2.0, (Skill.QUERY,))


def test_what_cannot_be_a_reward_is_told(tmp_path):
    with pytest.raises(InvalidField, match="a file that exists"):
        read_reward_code(tmp_path / "gone.py", [Skill.QUERY])
    big = tmp_path / "big.py"
    big.write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(InvalidField, match="at most 262144 bytes"):
        read_reward_code(big, [Skill.QUERY])
    binary = tmp_path / "binary.js"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidField, match="UTF-8"):
        read_reward_code(binary, [Skill.QUERY])
    fine = tmp_path / "fine.py"
    fine.write_text("x")
    with pytest.raises(InvalidField, match="the smaller one first"):
        read_reward_code(fine, [Skill.QUERY], 1.0, 1.0)
