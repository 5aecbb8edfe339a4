import pytest

from moontune.telemetry import names
from moontune.telemetry.metrics import MetricsPage, ServiceMetrics
from moontune.telemetry.names import JobKey, Kind, TrainKey, all_metrics, per_head, training_keys
from moontune.values.rollout import Head


def test_prometheus_names_follow_its_conventions():
    metrics = all_metrics()
    assert len({metric.name for metric in metrics}) == len(metrics) > 30
    for metric in metrics:
        assert metric.name.startswith(("moontune_", "grpc_server_"))
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM), metric.name
        assert metric.help.endswith(".")
        assert ":" not in metric.name


def test_every_metric_can_be_made_and_used():
    instruments = ServiceMetrics()
    for metric in all_metrics():
        labels = dict.fromkeys(metric.labels, "x")
        if metric.kind is Kind.COUNTER:
            instruments.counter(metric, **labels).inc()
        elif metric.kind is Kind.GAUGE:
            instruments.gauge(metric, **labels).set(1)
        else:
            instruments.histogram(metric, **labels).observe(0.5)
        assert instruments.value(metric, **labels) == 1.0
    with pytest.raises(TypeError, match="is a counter"):
        instruments.gauge(names.GRPC_STARTED)


def test_training_keys_are_unique_and_the_issue_names_are_there():
    keys = [*training_keys(), *JobKey]
    assert len(set(keys)) == len(keys)
    wanted = "reward_mean reward_std dead_group_share clip_share mismatch_kl max_ratio staleness_mean truncated_share"
    assert set(f"{wanted} grad_norm n_pred n_gt entropy_go kl_x clip_share_width".split()) <= set(keys)
    assert per_head("entropy", Head.Y) == "entropy_y"
    with pytest.raises(KeyError, match="not reported per head"):
        per_head(TrainKey.LOSS, Head.X)


def test_two_pages_do_not_share_numbers():
    first, second = ServiceMetrics(), ServiceMetrics()
    first.gauge(names.READY).set(1)
    assert second.value(names.READY) is None
    page = MetricsPage(first, "127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        MetricsPage(second, "127.0.0.1", page.port)
    page.close()
