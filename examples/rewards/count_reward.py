"""Share of the count that is right, for detect: `moontune train job.yaml --reward examples/rewards/count_reward.py`."""


def score(sample):
    """A number from 0 to 1, with its parts and a sentence; a plain number would do."""
    said, there = len(sample["output"]["objects"]), len(sample["ground_truth"]["boxes"])
    most = max(said, there, 1)
    return {"reward": 1 - abs(said - there) / most, "components": {"said": said}, "reason": f"{said} of {there}"}
