"""Settings of the gateway. Environment prefix MOONTUNE_GATEWAY_."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from moontune.serving.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Where to listen, where the services are, and what a request may weigh. `port` is that of HTTP."""

    prefix: ClassVar[str] = "MOONTUNE_GATEWAY_"

    port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 takes a free one.")
    rollout_address: str = Field("127.0.0.1:7051", description="host:port of the rollout service.")
    reward_address: str = Field("127.0.0.1:7052", description="host:port of the reward service.")
    trainer_address: str = Field("127.0.0.1:7053", description="host:port of the trainer service.")
    inference_address: str = Field("127.0.0.1:7054", description="host:port of the inference service.")
    jobs_address: str = Field("127.0.0.1:7055", description="host:port of the jobs service; empty: there is none.")
    services_ca: str = Field("", description="PEM roots of the services' certificates; empty: plaintext.")
    database: str = Field("sqlite:///gateway.db", description="SQLAlchemy URL of the delivery counters.")
    record_secret: SecretStr | None = Field(
        None, description="Signs the records in rollouts; unset: made once and kept in the database."
    )
    allowed_hosts: list[str] = Field(
        default_factory=list, description="Host names accepted beside loopback while no keys are configured."
    )
    body_bytes: int = Field(16 * 1024 * 1024, ge=1024, description="Largest body but that of train_step.")
    train_body_bytes: int = Field(256 * 1024 * 1024, ge=1024, description="Largest body of train_step.")
    most_connections: int = Field(2048, ge=1, description="Connections at once; more are answered 503.")
    image_bytes: int = Field(10 * 1024 * 1024, ge=1, description="Largest encoded image.")
    image_hosts: list[str] = Field(
        default_factory=list,
        description='Hosts whose images are fetched by http(s) URL; ["*"]: every public one; empty: none.',
    )
    image_networks: list[IPv4Network | IPv6Network] = Field(
        default_factory=list[IPv4Network | IPv6Network],
        description='Your own networks that these hosts may be in, as ["10.0.0.0/8"]; else public addresses only.',
    )
    image_ports: list[int] = Field(default_factory=lambda: [80, 443], description="Ports that images are fetched from.")
    spool_dir: Path | None = Field(None, description="Folder of bodies and exports under way; unset: the system's.")
    public_url: str = Field("", description="Where callers reach the gateway, for links; empty: as they called it.")
    link_s: int = Field(3600, ge=1, description="How long a download link works.")
    rollout_timeout_s: float = Field(600.0, gt=0, description="Longest generation of one rollout group.")
    train_timeout_s: float = Field(3600.0, gt=0, description="Longest train step.")
    inference_timeout_s: float = Field(300.0, gt=0, description="Longest inference request.")
    control_timeout_s: float = Field(60.0, gt=0, description="Longest of every other upstream call.")
    held_s: float = Field(300.0, ge=0, description="How long a group whose caller left waits for the same request.")
