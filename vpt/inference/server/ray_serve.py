"""The service as a Ray Serve deployment, for several machines. Extra: pip install 'visual-prompt-tuning[ray]'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI


def deployment(settings: ServeSettings, replicas: int = 1, cpus: float = 1, gpus: float = 0) -> Any:
    """Create a Ray Serve application; run it with `ray.serve.run(deployment(...))`.

    Args:
        settings: settings of each replica; the folder must be accessible from every machine.
        replicas: number of replicas, each with its own backbone.
        cpus: CPU cores reserved per replica.
        gpus: GPUs, or fraction of one, reserved per replica.
    """
    from ray import serve

    def build() -> FastAPI:
        return create_app(settings)

    made = serve.deployment(
        num_replicas=replicas,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        max_ongoing_requests=settings.queue,
        health_check_period_s=5,
    )
    return made(serve.ingress(build)()).bind()


def application(options: dict[str, Any]) -> Any:
    """Application for `serve run vpt.inference.server.ray_serve:application folder=DIR replicas=2` and Ray's YAML.

    Args:
        options: fields of ServeSettings, and replicas, cpus and gpus.
    """
    rest = dict(options)
    replicas, cpus, gpus = int(rest.pop("replicas", 1)), float(rest.pop("cpus", 1)), float(rest.pop("gpus", 0))
    return deployment(ServeSettings.model_validate(rest), replicas, cpus, gpus)
