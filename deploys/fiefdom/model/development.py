"""What a developer's laptop has of a cluster: its services with values of their own, and what they are linked to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fiefdom.model.references import IMAGE_WHICH
from fiefdom.model.secrets import EnvValue
from fiefdom.model.text import Argument, EnvName, FilePath, Many, Matches, Model, Name, Port, UrlPath

_FOLDER = Matches("/[A-Za-z0-9._/-]+", "an absolute folder such as /var/lib/redis")


class DevelopmentOverride(Model):
    """What a laptop does differently for a service of the inventory."""

    instances: int = Field(1, ge=0, le=100, description="Instances on a laptop; with 0 it is left out there.")
    base_port: Port | None = Field(
        None, description="Loopback port of the first instance; the service's own when absent."
    )
    environment: dict[EnvName, EnvValue] = Field(
        default_factory=dict,
        description="Added to the service's environment on a laptop; a value in place of a secret means that nobody is "
        "asked for it.",
    )
    links: Many[Name] = Field(
        (),
        description="Names in `development.services`, beside the service's own links: each such as redis gives it "
        "REDIS_HOST and REDIS_PORT, and starts that first.",
    )


class Middleware(Model):
    """What services use on a laptop, and production has elsewhere."""

    image: (
        Annotated[str, Matches(IMAGE_WHICH, "an image with its tag or digest, such as redis:7.4 or team/db@sha256:...")]
        | None
    ) = Field(None, description="Image with its tag or digest; pulled where it is not here, unless `build` makes it.")
    build: FilePath | None = Field(
        None, description="Folder of a Dockerfile to build the image from; relative to the inventory."
    )
    port: Port = Field(description="Port that the process in the container listens on.")
    host_port: Port | None = Field(
        None, description="Port on the laptop's loopback that leads to `port`; the same one when absent."
    )
    health_path: UrlPath | None = Field(
        None,
        description="Path that is answered with a status from 200 to 399 when it can serve; when absent, it is up when "
        "somebody listens on its port.",
    )
    start_timeout_s: int = Field(
        60, ge=1, le=3600, description="Seconds that it may take from its start until it is up."
    )
    environment: dict[EnvName, EnvValue] = Field(default_factory=dict, description="Environment of the process.")
    command: Many[Argument] = Field((), description="Command of the container; the image's own when empty.")
    volumes: dict[Name, Annotated[str, _FOLDER]] = Field(
        default_factory=dict,
        description="Folders in the container by the name of the volume that keeps them, until `dev down --volumes`.",
    )
    verbatim: bool = Field(
        False, description="Whether ${NAME} and {{ NAME }} in environment and command are for the program."
    )

    @property
    def loopback_port(self) -> int:
        """Where the laptop finds it."""
        return self.port if self.host_port is None else self.host_port


class Development(Model):
    """What is true on a laptop alone."""

    overrides: dict[Name, DevelopmentOverride] = Field(
        default_factory=dict, description="What a laptop does differently, by service of the inventory."
    )
    services: dict[Name, Middleware] = Field(
        default_factory=dict, description="What services use on a laptop and production has elsewhere, by name."
    )
