"""What a server serves, and its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from vpt.config import BackboneConfig, Section
from vpt.config.base import short
from vpt.data.decode import ARRAY, FORMATS
from vpt.utils.precision import Precision

TAKEN = ("JPEG", "PNG", "WEBP", "BMP", "GIF", ARRAY)  # default image formats of uploads


class ServeSettings(Section):
    """Everything a server depends on besides its tasks."""

    folder: Path = Field(description="folder of artifacts and run folders; watched for changes while the server runs")
    backbone: Annotated[BackboneConfig | None, short("name")] = Field(
        None, description="backbone that all tasks share; default: that of the first readable artifact"
    )
    device: str = "auto"
    precision: Precision = Field(
        "fp32", description="precision of the forward pass; auto: bf16 if native to the device"
    )
    memory_mb: int | None = Field(None, ge=1, description="MB for the tasks, without the backbone; default: no limit")
    max_batch: int = Field(32, ge=1, le=1024, description="most images in one forward pass of the backbone")
    wait_ms: float = Field(5.0, ge=0, le=1000, description="ms that the first image of a batch waits for others")
    queue: int = Field(
        256,
        ge=1,
        description="most images that wait, counted for each task; others get status 429",
    )
    timeout_s: float = Field(30.0, gt=0, description="seconds until a request without an answer gets status 504")
    task_s: float = Field(10.0, gt=0, description="seconds after which a forward pass is stopped between two layers")
    load_s: float = Field(60.0, gt=0, description="seconds after which a task that is still loading is not served")
    upload_s: float = Field(20.0, gt=0, description="seconds until an incomplete request gets status 408")
    upload_mb: float = Field(20.0, gt=0, description="largest request in MB; larger ones get status 413")
    uploads_mb: float = Field(256.0, gt=0, description="MB of requests being received; above it the largest gets 503")
    max_images: int = Field(16, ge=1, description="most images in one request")
    max_tasks: int = Field(64, ge=1, description="most tasks in one request")
    max_pixels: int = Field(40_000_000, ge=1, description="largest number of pixels of an image")
    request_pixels: int = Field(
        100_000_000, ge=1, description="largest number of pixels of all images of one request; more get status 413"
    )
    decode_mb: int = Field(1024, ge=1, description="memory in MB for decoding large images")
    decode_threads: int = Field(
        default_factory=lambda: min(8, max(2, os.cpu_count() or 1)),
        ge=1,
        le=64,
        description="images decoded at once",
    )
    formats: tuple[str, ...] = Field(TAKEN, description="accepted image formats")
    header_s: float = Field(10.0, gt=0, description="seconds until a connection without a complete header is closed")
    connections: int = Field(512, ge=1, description="most open connections; idle ones are closed for new ones")
    reload_s: float = Field(2.0, ge=0, description="seconds between two checks of the folder for changes; 0: never")
    keys: Path | None = Field(None, description="JSON file with digests of API keys, and the tasks each may use")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="accepted values of the Host header, as in *.example.com; default: any"
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        wanted = tuple(name.strip().upper().replace("JPG", "JPEG") for name in formats)
        unknown = [name for name in wanted if name not in (*FORMATS, ARRAY)]
        if unknown or not wanted:
            raise ValueError(f"known formats are {', '.join((*FORMATS, ARRAY))}")
        return wanted

    @field_validator("allowed_hosts")
    @classmethod
    def _patterns(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or ("*" in host.removeprefix("*.") and host != "*"):
                raise ValueError("a star is only allowed at the beginning, as in *.example.com")
        return hosts
