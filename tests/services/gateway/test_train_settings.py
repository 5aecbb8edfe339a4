"""Every setting of a train step can be sent over HTTP, by its name."""

from dataclasses import fields

import pytest

from moontune.errors import InvalidField
from moontune.values.rollout import Head
from moontune.values.training import HeadWeight, TrainSettings
from services.gateway.schemas import StepFields
from services.gateway.train_settings import train_settings_of

NAMES = {field.name for field in fields(TrainSettings)} - {"learning_rate"}


def body(**given):
    return StepFields.model_validate({"finetune_id": "01JA00000000000000000000FT", **given})


def test_every_setting_has_a_field():
    assert set(StepFields.model_fields) - {"finetune_id", "lr", "expected_step"} == NAMES


def test_what_is_left_out_takes_the_services_default():
    assert train_settings_of(body(lr=1e-3)) == TrainSettings(learning_rate=1e-3)


def test_settings_arrive_as_they_were_sent():
    settings = train_settings_of(
        body(
            dual_clip=3.0,
            aggregation="token_mean",
            entropy_heads={"x": 0.5, "token": 2.0},
            object_order="canonical",
            ground_truth_reward=0.9,
            mask_truncated=True,
            overlong_positions=8,
            overlong_penalty=0.5,
            correction="off",
        )
    )
    assert (settings.dual_clip, str(settings.aggregation), str(settings.object_order)) == (
        3.0,
        "token_mean",
        "canonical",
    )
    assert settings.entropy_heads == (HeadWeight(Head.X, 0.5), HeadWeight(Head.TOKEN, 2.0))
    assert (settings.ground_truth_reward, settings.mask_truncated) == (0.9, True)
    assert (settings.overlong_positions, settings.overlong_penalty, str(settings.correction)) == (8, 0.5, "off")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"aggregation": "mean of means"}, "aggregation"),
        ({"object_order": "shuffled"}, "object_order"),
        ({"loss": "dpo"}, "loss"),
        ({"correction": "on"}, "correction"),
        ({"optimiser": "lion"}, "optimiser"),
        ({"entropy_heads": {"nose": 1.0}}, "entropy_heads"),
        ({"passes": 0}, "passes"),
        ({"ground_truth_reward": 1e10}, "ground_truth_reward"),
    ],
)
def test_a_setting_out_of_range_is_named(given, field):
    with pytest.raises(InvalidField) as caught:
        train_settings_of(body(**given))
    assert caught.value.violations[0].field.endswith(field)
