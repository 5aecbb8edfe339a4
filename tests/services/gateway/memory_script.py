"""Posts a small and a 253 MiB train step to a gateway in this process; prints by how much its peak memory grew.

The trainer runs in the same process, so it takes the groups and keeps none.
"""

import asyncio
import http.client
import json
import resource
import sys
from pathlib import Path

from moontune.api.trainer.v1 import trainer_service_pb2 as trainer_pb
from moontune.values.training import TrainStepResult
from moontune.wire.training import train_result_to_proto
from tests.fakes import loop
from tests.services.gateway.conftest import gateway
from tests.services.gateway.test_step_body import SFT, large_image

GROUPS, IMAGE_BYTES = 19, 10 * 2**20 - 1024


async def counted(self, requests, context):
    groups = 0
    async for message in requests:
        groups += message.WhichOneof("payload") == "group"
    self.counted = groups
    return trainer_pb.TrainStepResponse(result=train_result_to_proto(TrainStepResult(1, True, "sha256:" + "1" * 64)))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_body(path: Path, finetune_id: str, groups: int) -> int:
    with path.open("w") as file:
        file.write(f'{{"finetune_id":"{finetune_id}","groups":[')
        for index in range(groups):
            request = SFT["request"] | {"image_url": large_image(index, IMAGE_BYTES)}
            file.write(("," if index else "") + json.dumps(SFT | {"request": request}))
        file.write('],"lr":0.0001}')
    return path.stat().st_size


def send(port: int, path: Path) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=150)
    headers = {"Content-Type": "application/json", "Content-Length": str(path.stat().st_size)}
    with path.open("rb") as file:
        connection.request("POST", "/v1/tuning/train_step", body=file, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, body[:500]
    return answer.status


async def main(folder: Path) -> None:
    loop.FakeTrainer.TrainStep = counted
    async with gateway(folder) as running:
        finetune_id = await running.finetune()
        write_body(folder / "small.json", finetune_id, 2)
        await asyncio.to_thread(send, running.port, folder / "small.json")
        before = peak_bytes()
        size = write_body(folder / "large.json", finetune_id, GROUPS)
        await asyncio.to_thread(send, running.port, folder / "large.json")
        seen = {"groups": running.trainer.counted, "body_bytes": size, "grown_bytes": peak_bytes() - before}
    print(json.dumps(seen))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
