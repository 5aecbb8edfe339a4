import json
import logging

import pytest
import structlog

from moontune.telemetry.logs import LogFormat, LogSettings, configure_logs, get_logger


@pytest.fixture(autouse=True)
def restored():
    root = logging.getLogger()
    handlers, level, configured = list(root.handlers), root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)
    structlog.contextvars.clear_contextvars()


def lines(capsys) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_json_lines_hold_service_request_id_and_facts(capsys):
    configure_logs(LogSettings("trainer", "INFO", LogFormat.JSON))
    structlog.contextvars.bind_contextvars(request_id="r-1")
    get_logger("a.module").info("step", step=3)
    get_logger("a.module").debug("hidden")
    logging.getLogger("library").warning("from %s", "elsewhere")
    get_logger("a.module").info("other", service="rollout")
    step, library, other = lines(capsys)
    assert step["event"] == "step"
    assert (step["service"], step["request_id"], step["step"], step["level"]) == ("trainer", "r-1", 3, "info")
    assert step["logger"] == "a.module"
    assert "timestamp" in step
    assert (library["event"], library["service"], library["level"]) == ("from elsewhere", "trainer", "warning")
    assert other["service"] == "rollout"


def test_a_script_without_log_settings_is_shown_no_local_variables(caplog):
    structlog.reset_defaults()
    try:
        password = "swordfish"
        raise ValueError(len(password))
    except ValueError:
        get_logger(__name__).exception("broken")
    assert "ValueError: 9" in caplog.text
    assert "swordfish" not in caplog.text.replace('password = "swordfish"', "")


def test_a_trace_is_one_line_of_json_and_shows_no_local_variables(capsys):
    def fail() -> None:
        password = "swordfish"
        raise ValueError(len(password))

    for form in (LogFormat.JSON, LogFormat.CONSOLE):
        configure_logs(LogSettings("x", format=form))
        try:
            fail()
        except ValueError:
            get_logger(__name__).exception("broken")
        text = capsys.readouterr().err
        assert "ValueError: 9" in text
        assert "swordfish" not in text.replace('password = "swordfish"', "")
        if form is LogFormat.JSON:
            assert len(text.splitlines()) == 1
