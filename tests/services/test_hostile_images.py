"""Images that are not what they should be, to every service that takes one, over real channels and a real worker."""

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from PIL import Image as PillowImage

from moontune.errors import ImageInvalid, ImageTooLarge, InvalidField
from moontune.values.finetune import LoraSettings, NewFinetune
from moontune.values.geometry import Box
from moontune.values.ground_truth import GroundTruth
from moontune.values.image import Image
from moontune.values.inference import InferenceRequest
from moontune.values.rollout_order import RolloutOrder
from moontune.values.training import SftGroup, TrainStep
from tests.moontune.imaging.test_decode import png_header
from tests.services.model_stack import ModelStack, detect, model_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    PillowImage.new(mode, (48, 40), 99 if mode == "L" else None).save(file, form, **options)
    return file.getvalue()


FURTHER = [PillowImage.new("RGB", (48, 40), "red")]
REFUSED = {
    "100 megapixels": (png_header(10_000, 10_000), ImageTooLarge),
    "40 megapixels and one": (png_header(40_000_001, 1), ImageTooLarge),
    "more than 10 MiB": (b"\xff\xd8" + bytes(10 * 2**20), ImageTooLarge),
    "a cut jpeg": (encoded("JPEG")[:-200], ImageInvalid),
    "a png without pixels": (png_header(64, 64), ImageInvalid),
    "gif": (encoded("GIF"), ImageInvalid),
    "bmp": (encoded("BMP"), ImageInvalid),
    "tiff": (encoded("TIFF"), ImageInvalid),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", ImageInvalid),
}
TAKEN = {
    "cmyk jpeg": encoded("JPEG", "CMYK"),
    "animated webp": encoded("WEBP", save_all=True, append_images=FURTHER),
    "a jpeg with further pictures": encoded("MPO", save_all=True, append_images=FURTHER),
    "grey png": encoded("PNG", "L"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[ModelStack]:
    async with model_stack(tmp_path_factory.mktemp("images")) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def finetune_id(stack: ModelStack) -> str:
    return (await stack.trainer.create_finetune(NewFinetune("", "hostile", lora=LoraSettings(rank=4)))).id


def calls(stack: ModelStack, finetune_id: str, data: bytes):
    """One call a service, with the field that an error must name."""
    request = replace(detect(), image=Image.of(data))
    group = SftGroup(request, GroundTruth(boxes=(Box(0.1, 0.1, 0.3, 0.4),)))
    return {
        "order.request.images[0]": lambda: stack.rollout.generate(RolloutOrder("tiny-fake", request, 1)),
        "input.images[0]": lambda: stack.inference.answer(InferenceRequest("tiny-fake", request)),
        "groups[0]": lambda: stack.trainer.train_step(TrainStep(finetune_id, "", (group,))),
    }


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_refused(stack: ModelStack, finetune_id: str, name: str) -> None:
    data, kind = REFUSED[name]
    pids = {each.worker.pid for each in stack.chassis.values() if each.worker}
    for field, call in calls(stack, finetune_id, data).items():
        with pytest.raises(InvalidField) as caught:
            await call()
        assert type(caught.value) is kind, (field, caught.value)
        assert caught.value.violations[0].field.startswith(field), caught.value
    assert (await stack.trainer.get_finetune(finetune_id)).step == 0
    assert {each.worker.pid for each in stack.chassis.values() if each.worker} == pids


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_taken(stack: ModelStack, finetune_id: str, name: str) -> None:
    before = (await stack.trainer.get_finetune(finetune_id)).step
    await asyncio.gather(*(call() for call in calls(stack, finetune_id, TAKEN[name]).values()))
    assert (await stack.trainer.get_finetune(finetune_id)).step == before + 1
