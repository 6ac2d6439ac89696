"""The recipe for KServe answers a client of the Open Inference Protocol with the predictions of each task."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import vpt
from tests.helpers.bank_tasks import make
from tests.helpers.paths import ROOT
from tests.helpers.photo import photo
from tests.inference.server.test_serve_process import free_port

pytest.importorskip("kserve", exc_type=ImportError)
httpx = pytest.importorskip("httpx")


def test_tasks_answer_the_open_inference_protocol(tmp_path: Path):
    artifacts = {name: make(tmp_path, name, 1) for name in ("deep", "probe")}
    port = free_port()
    script = ROOT / "examples" / "serving" / "kserve_bank.py"
    command = [sys.executable, str(script), "--folder", str(tmp_path), "--http_port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.STDOUT, stdout=(tmp_path / "log").open("w")) as server:
        try:
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
            wait_for(client, server, tmp_path / "log")
            assert sorted(client.get("/v2/models").json()["models"]) == ["deep-1", "probe-1"]
            images = np.stack([photo(60, 80, seed) for seed in range(2)])
            tensor = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
            for name, artifact in artifacts.items():
                body = {"id": "7", "inputs": [{**tensor, "data": images.flatten().tolist()}]}
                answer = client.post(f"/v2/models/{name}-1/infer", json=body)
                assert answer.status_code == 200, answer.text
                (output,) = answer.json()["outputs"]
                assert (output["name"], output["shape"], output["datatype"]) == ("results", [2], "BYTES")
                for row, wanted in zip(output["data"], vpt.load(artifact).predict(list(images)), strict=True):
                    found = json.loads(row)["scores"]
                    assert list(found) == list(wanted.labels)
                    np.testing.assert_allclose(list(found.values()), wanted.scores, atol=1e-4)
            # A text is not opened as a path.
            path = {"name": "images", "shape": [1], "datatype": "BYTES", "data": [str(script)]}
            assert client.post("/v2/models/deep-1/infer", json={"inputs": [path]}).status_code == 400
        finally:
            server.terminate()


def wait_for(client, server: subprocess.Popen, log: Path) -> None:
    for _ in range(1200):
        assert server.poll() is None, log.read_text()
        try:
            if client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())
