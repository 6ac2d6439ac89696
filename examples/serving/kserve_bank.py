"""Every artifact in a folder behind KServe's Open Inference Protocol (v2), on one backbone.

    pip install 'visual-prompt-tuning[clip]' kserve
    python examples/serving/kserve_bank.py --folder runs --http_port 8080

A request is a UINT8 tensor `images` (B, H, W, 3), RGB; the answer is a BYTES tensor `results` (B,), in which each
element is the result of an image as JSON, as `vpt predict --format json` prints it. Other options are those of
kserve.ModelServer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
from kserve.errors import InvalidInput

import vpt
from vpt.data.decode import BadImage

parser = argparse.ArgumentParser(parents=[model_server.parser], conflict_handler="resolve")
parser.add_argument("--folder", type=Path, default=Path("/mnt/models"), help="folder of artifacts and run folders")
parser.add_argument("--top", type=int, default=5, help="number of classes in a result")


class Task(Model):
    """A task of the bank."""

    def __init__(self, bank: vpt.Bank, name: str, top: int) -> None:
        super().__init__(name)
        self.bank, self.top = bank, top
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Predict the images of a request."""
        # Only pixels: the bank would open a text as the path of a file.
        if not isinstance(payload, InferRequest) or [each.datatype for each in payload.inputs] != ["UINT8"]:
            raise InvalidInput("send one UINT8 tensor (images, height, width, 3), as in POST /v2/models/NAME/infer")
        images = payload.inputs[0].as_numpy()
        if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
            raise InvalidInput(f"send images (images, height, width, 3), not {images.shape}")
        images = list(np.ascontiguousarray(images, np.uint8))
        found = await asyncio.to_thread(self.bank.predict, images, [self.name] * len(images), self.top)
        rows = [{"error": str(one)} if isinstance(one, BadImage) else one.to_dict(self.top) for one in found]
        output = InferOutput("results", [len(rows)], "BYTES", [json.dumps(row) for row in rows])
        return InferResponse(payload.id, self.name, [output])


def main() -> None:
    """Add every artifact to the bank, and serve."""
    options = parser.parse_args()
    bank = vpt.Bank()
    for path in sorted(options.folder.iterdir()):
        if path.suffix == ".safetensors" or (path / "config.yaml").is_file():
            bank.add(path.stem if path.is_file() else path.name, path)
    ModelServer(enable_grpc=False).start([Task(bank, name, options.top) for name in bank.names()])


if __name__ == "__main__":
    main()
