"""Limits and places of a server."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from vpt.config import Section
from vpt.precision import Precision


class ServeSettings(Section):
    """Everything a server depends on beside its tasks."""

    folder: Path = Field(description="artifacts and run folders; watched while the server runs")
    device: str = "auto"
    precision: Precision = Field("fp32", description="of the passes; bf16 is faster on a GPU")
    memory_mb: int | None = Field(None, ge=1, description="memory for tasks beside the backbone; default: no limit")
    max_batch: int = Field(32, ge=1, le=1024, description="images in one pass of the backbone")
    wait_ms: float = Field(5.0, ge=0, le=1000, description="how long the first image of a batch waits for others")
    queue: int = Field(256, ge=1, description="images that may wait, one for each task; more are answered with 429")
    timeout_s: float = Field(30.0, gt=0, description="an answer that takes longer is given up with 504")
    upload_s: float = Field(20.0, gt=0, description="a request that takes longer to arrive is given up with 408")
    upload_mb: float = Field(20.0, gt=0, description="a larger request is refused with 413")
    max_images: int = Field(16, ge=1, description="images in one request")
    max_tasks: int = Field(64, ge=1, description="tasks in one request")
    max_pixels: int = Field(40_000_000, ge=1, description="a larger image is refused")
    reload_s: float = Field(2.0, ge=0, description="seconds between looks at the folder; 0: never again")
    keys: Path | None = Field(None, description="JSON file with the digests of API keys and the tasks each may use")
