"""A reward as a service of one's own, in Python: `python -m examples.rewards.plugin 7070`.

Scores query by the length of the answer: 1 up to the parameter `words`, less beyond it.
"""

import sys
from concurrent import futures

import grpc

from moontune.api.common.v1 import skill_pb2
from moontune.api.reward.v1 import reward_pb2, reward_plugin_service_pb2_grpc
from moontune.api.reward.v1 import reward_plugin_service_pb2 as pb

WORDS = reward_pb2.RewardParameter(
    name="words", default_value=reward_pb2.ParameterValue(number=3), description="words that are free"
)


class ShortAnswer(reward_plugin_service_pb2_grpc.RewardPluginServiceServicer):
    """min(1, words / words said)."""

    def DescribeReward(self, request, context):  # noqa: N802
        """What the catalogue shows."""
        info = reward_pb2.RewardInfo(
            name="short_answer",
            description="min(1, words / words of the answer)",
            skills=[skill_pb2.SKILL_QUERY],
            parameters=[WORDS],
            minimum=0.0,
            maximum=1.0,
        )
        return pb.DescribeRewardResponse(info=info)

    def ScoreSamples(self, request, context):  # noqa: N802
        """One result a sample, in their order."""
        words = request.parameters["words"].number if "words" in request.parameters else WORDS.default_value.number
        return pb.ScoreSamplesResponse(results=[self._result(sample, words) for sample in request.samples])

    def _result(self, sample, words):
        said = len(sample.output.query.answer.split())
        reward = min(1.0, words / max(said, 1))
        return reward_pb2.RewardResult(reward=reward, components={"said": said}, status=reward_pb2.PARSE_STATUS_OK)


def main():
    """Listen on loopback, on the port given or a free one, and print it."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    reward_plugin_service_pb2_grpc.add_RewardPluginServiceServicer_to_server(ShortAnswer(), server)
    port = server.add_insecure_port(f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else 0}")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
