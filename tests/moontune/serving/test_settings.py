from typing import ClassVar

import pytest
from pydantic import Field, SecretStr, model_validator

from moontune.serving.settings import ServiceSettings, StartupError
from moontune.serving.tls import server_credentials


class FakeSettings(ServiceSettings):
    prefix: ClassVar[str] = "MOONTUNE_FAKE_"
    port: int = Field(7999, ge=0, le=65535)
    sizes: list[int] = Field(default_factory=list[int])
    database: str = "sqlite:///x.db"


def test_flag_over_environment_over_file_over_default(tmp_path):
    file = tmp_path / "fake.yaml"
    file.write_text("port: 1\ndrain_grace_s: 3\ndatabase: from-file\n")
    environ = {"MOONTUNE_FAKE_PORT": "2", "MOONTUNE_FAKE_CONFIG": str(file), "MOONTUNE_FAKE_DATABASE": "from-env"}
    settings = FakeSettings.load(["--port=3", "--sizes", "[1, 2]", "--insecure"], environ)
    assert (settings.port, settings.database, settings.drain_grace_s) == (3, "from-env", 3.0)
    assert (settings.sizes, settings.insecure, settings.reflection) == ([1, 2], True, True)
    assert FakeSettings.load([], environ).port == 2
    assert FakeSettings.load(["--config", str(file)], {}).port == 1
    assert FakeSettings.load([], {}).port == 7999


def test_every_unknown_name_and_bad_value_is_told_at_once(tmp_path):
    file = tmp_path / "fake.yaml"
    file.write_text("prot: 1\n")
    environ = {"MOONTUNE_FAKE_HSOT": "x", "MOONTUNE_OTHER_X": "1", "MOONTUNE_FAKE_PORT": "70000"}
    with pytest.raises(StartupError) as refused:
        FakeSettings.load(["--config", str(file), "--metrcs-port", "1", "--drain-delay-s", "-1"], environ)
    text = str(refused.value)
    for word in ("prot", "MOONTUNE_FAKE_HSOT", "--metrcs-port", "port:", "70000", "drain_delay_s"):
        assert word in text
    assert "MOONTUNE_OTHER_X" not in text


def test_a_flag_below_zero_is_read_as_a_value():
    with pytest.raises(StartupError, match="drain_delay_s"):
        FakeSettings.load(["--drain-delay-s", "-1"], {})


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    with pytest.raises(StartupError, match="cannot read"):
        FakeSettings.load(["--config", str(tmp_path / "none.yaml")], {})


def test_building_settings_reads_no_environment(monkeypatch):
    monkeypatch.setenv("MOONTUNE_FAKE_PORT", "1")
    monkeypatch.setenv("PORT", "1")
    assert FakeSettings().port == 7999


def test_secrets_are_masked_when_shown():
    settings = FakeSettings(internal_token=SecretStr("hush"), database="postgresql://me:hush@db/x")
    assert "hush" not in str(settings.shown())
    assert settings.shown()["database"] == "postgresql://me:***@db/x"


class CrossChecked(FakeSettings):
    @model_validator(mode="after")
    def together(self) -> "CrossChecked":
        if self.insecure:
            raise ValueError("insecure does not go with this")
        return self


def test_a_refusal_names_no_secret(tmp_path):
    file = tmp_path / "fake.yaml"
    file.write_text("internal_token: [hush]\nport: -7\n")
    with pytest.raises(StartupError) as refused:
        FakeSettings.load(["--database", "postgresql://me:hush@db/x", "--config", str(file)], {})
    assert "hush" not in str(refused.value)
    assert "given -7" in str(refused.value)
    flags = ["--internal-token", "hush", "--database", "postgresql://me:hush@db/x", "--insecure"]
    with pytest.raises(StartupError, match="does not go with") as refused:
        CrossChecked.load(flags, {})
    assert "hush" not in str(refused.value)


def test_the_metrics_port_is_a_thousand_up():
    assert FakeSettings().bound_metrics_port == 8999
    assert FakeSettings(port=0).bound_metrics_port == 0
    assert FakeSettings(metrics_port=5).bound_metrics_port == 5


def test_plaintext_stays_on_this_machine_unless_asked_for(tmp_path):
    assert server_credentials(FakeSettings(host="127.0.0.1")) is None
    assert server_credentials(FakeSettings(host="0.0.0.0", insecure=True)) is None
    with pytest.raises(StartupError, match=r"0\.0\.0\.0.*insecure=true"):
        server_credentials(FakeSettings(host="0.0.0.0"))
    with pytest.raises(StartupError, match="go together"):
        server_credentials(FakeSettings(tls_certificate=tmp_path / "c.pem"))
    with pytest.raises(StartupError, match="tls_client_ca needs"):
        server_credentials(FakeSettings(tls_client_ca=tmp_path / "c.pem"))
    with pytest.raises(StartupError, match="cannot read"):
        server_credentials(FakeSettings(tls_certificate=tmp_path / "c.pem", tls_key=tmp_path / "k.pem"))
