"""The same service as a Ray Serve deployment, for more than one machine. An extra: pip install 'vpt[ray]'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpt.inference.server.app import create_app
from vpt.inference.server.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI


def deployment(settings: ServeSettings, replicas: int = 1, cpus: float = 1, gpus: float = 0) -> Any:
    """A Ray Serve application; run it with `ray.serve.run(deployment(...))`.

    Args:
        settings: what each replica serves; the folder must lie where every machine finds it.
        replicas: copies of the service, each with a backbone of its own.
        cpus: CPU cores that Ray keeps for a replica.
        gpus: GPUs, or parts of one, that Ray keeps for a replica.
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
    """For `serve run vpt.inference.server.ray_serve:application folder=DIR replicas=2` and Ray's YAML files.

    Args:
        options: fields of ServeSettings, and replicas, cpus and gpus.
    """
    rest = dict(options)
    replicas, cpus, gpus = int(rest.pop("replicas", 1)), float(rest.pop("cpus", 1)), float(rest.pop("gpus", 0))
    return deployment(ServeSettings.model_validate(rest), replicas, cpus, gpus)
