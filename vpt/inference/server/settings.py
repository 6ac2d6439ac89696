"""What a server serves, and its limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator

from vpt.config import BackboneConfig, Section
from vpt.config.base import short
from vpt.data.decode import FORMATS
from vpt.utils.precision import Precision

TAKEN = ("JPEG", "PNG", "WEBP", "BMP", "GIF")  # default image formats of uploads


class ServeSettings(Section):
    """Everything a server depends on besides its tasks."""

    folder: Path = Field(description="artifacts and run folders; watched while the server runs")
    backbone: Annotated[BackboneConfig | None, short("name")] = Field(
        None, description="the one that is served; default: that of the first artifact that can be read"
    )
    device: str = "auto"
    precision: Precision = Field("fp32", description="of the passes; auto: bf16 if native to the device")
    memory_mb: int | None = Field(None, ge=1, description="memory for tasks besides the backbone; default: no limit")
    max_batch: int = Field(32, ge=1, le=1024, description="images in one pass of the backbone")
    wait_ms: float = Field(5.0, ge=0, le=1000, description="how long the first image of a batch waits for others")
    queue: int = Field(256, ge=1, description="images that may wait, one for each task; more are answered with 429")
    timeout_s: float = Field(30.0, gt=0, description="an answer that takes longer is given up with 504")
    task_s: float = Field(10.0, gt=0, description="a pass that takes longer is stopped between two layers")
    load_s: float = Field(60.0, gt=0, description="a task that takes longer to prepare is not served")
    upload_s: float = Field(20.0, gt=0, description="a request that takes longer to arrive is given up with 408")
    upload_mb: float = Field(20.0, gt=0, description="a larger request is refused with 413")
    uploads_mb: float = Field(256.0, gt=0, description="of all requests together; the largest is refused with 503")
    max_images: int = Field(16, ge=1, description="images in one request")
    max_tasks: int = Field(64, ge=1, description="tasks in one request")
    max_pixels: int = Field(40_000_000, ge=1, description="a larger image is refused")
    request_pixels: int = Field(
        100_000_000, ge=1, description="of all images of one request; more are refused with 413"
    )
    decode_mb: int = Field(1024, ge=1, description="memory for large images that are being decoded")
    decode_threads: int = Field(
        default_factory=lambda: min(8, max(2, os.cpu_count() or 1)), ge=1, le=64, description="images decoded at a time"
    )
    formats: tuple[str, ...] = Field(TAKEN, description="image formats that are taken")
    header_s: float = Field(10.0, gt=0, description="a connection that sends no whole header for longer is closed")
    connections: int = Field(
        512, ge=1, description="open at a time; one that sends no request makes room for a new one"
    )
    reload_s: float = Field(2.0, ge=0, description="seconds between looks at the folder; 0: never again")
    keys: Path | None = Field(None, description="JSON file with the digests of API keys and the tasks each may use")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names that a request may ask for, as in *.example.com; default: any"
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        wanted = tuple(name.strip().upper().replace("JPG", "JPEG") for name in formats)
        unknown = [name for name in wanted if name not in FORMATS]
        if unknown or not wanted:
            raise ValueError(f"known formats are {', '.join(FORMATS)}")
        return wanted

    @field_validator("allowed_hosts")
    @classmethod
    def _patterns(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or ("*" in host.removeprefix("*.") and host != "*"):
                raise ValueError("a star stands at the front alone, as in *.example.com")
        return hosts
