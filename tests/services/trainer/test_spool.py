"""A step's groups on disk: each image once, all of it gone at the end."""

from dataclasses import replace
from pathlib import Path

import pytest

from moontune.errors import ImageUnknown
from moontune.values.model_ref import PolicyVersion
from moontune.values.skill import Skill
from services.trainer.spool import named_group, new_spool
from tests.services.trainer.made import picture, rl_group

NOBODY = PolicyVersion("any", "")


def test_a_spool_keeps_each_image_once_and_goes(tmp_path: Path) -> None:
    with new_spool(tmp_path / "spool") as spool:
        first = named_group(rl_group(Skill.DETECT, 1, NOBODY), spool, "groups[0]")
        image = first.request.image
        assert image is not None
        assert image.data is None
        again = replace(first, request=replace(first.request, object="other"))
        assert named_group(again, spool, "groups[1]") == again
        assert len(list(spool.folder.glob("image-*"))) == 1
        with pytest.raises(ImageUnknown, match=r"groups\[2\]\.request\.image"):
            named_group(rl_group(Skill.DETECT, 2, NOBODY, image=picture(2).named()), spool, "groups[2]")
        spool.add_group(0, first)
        assert spool.group(0) == first
    assert not list((tmp_path / "spool").iterdir())
