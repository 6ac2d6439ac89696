"""Compares our methods with the authors' released code on the same weights, and writes results/released.json.

    pip install --target LIBS yacs ml_collections fvcore
    python -m benchmarks.accuracy.released PEERS --libs LIBS  # PEERS/OWNER+NAME is a clone of github.com/OWNER/NAME

Small networks with random weights, float32, on a CPU. Reports the largest difference of features, and of
the gradients of one loss, relative to the largest value of the released code. None of that code is in this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results_files import RESULTS
from vpt.utils.atomic_io import write_json

ROOT = Path(__file__).resolve().parents[2]
DASSL = "KaiyangZhou/Dassl.pytorch"


@dataclass(frozen=True)
class Peer:
    """One comparison: who released it, and its text in the table."""

    code: str
    recipe: str
    differs: str
    clip: bool = False
    measured: bool = True


VPT, MAPLE = "KMnP/vpt", "muzairkhattak/multimodal-prompt-learning"
PEERS = {
    "VPT-shallow": Peer(VPT, "bench/vtab-vpt-shallow", "none known"),
    "VPT-deep": Peer(VPT, "bench/vtab-vpt-deep, bench/fgvc-vpt-deep", "`REVERSE_DEEP` is not supported"),
    "VPT-deep, bottleneck": Peer(VPT, "", "none known"),
    "VPT-deep on MAE": Peer(VPT, "bench/vtab-vpt-deep-mae", "none known, with `head.pool=mean_then_norm`"),
    "VFPT": Peer(
        "runtsang/VFPT",
        "bench/vtab-vfpt",
        "transformed tokens come first, in all layers, transformed over both axes: its default among several variants",
    ),
    "E2VPT": Peer("ChengHan111/E2VPT", "bench/vtab-e2vpt", "none known, with its default among several variants"),
    "E2VPT, tokens pruned": Peer(
        "ChengHan111/E2VPT",
        "",
        "a segment is a block of adjacent channels, there every sixteenth one; importance is the mean of absolute "
        "gradients of the masks, there of signed ones",
    ),
    "VAPT": Peer("Minhchuyentoancbn/VAPT", "bench/vtab-vapt", "none known, with its default among several variants"),
    "CVPT": Peer(
        "Lingyun0419/CVPT",
        "bench/vtab-cvpt",
        "cross-attention uses the layer's own weights, there copies of them; LayerScale, if the backbone has it, "
        "applies to this branch too",
    ),
    "gated": Peer("ryongithub/GatedPromptTuning", "bench/fgvc-gated-mae", "none known"),
    "SPT": Peer(
        "WangYZ1608/Self-Prompt-Tuning",
        "bench/fgvc-spt-mae",
        "patch tokens are sampled here, there read from a file; it evaluates a running mean of the weights, at the "
        "epoch that is best on test",
    ),
    "BPT": Peer(
        "WangYZ1608/BPT",
        "bench/fgvc-bpt-mae",
        "whitening omits directions without variance, where it divides by almost zero; it evaluates as SPT does",
    ),
    "VIPAMIN": Peer(
        "iamjaekyun/vipamin",
        "bench/vtab-vipamin-mae",
        "the forward pass is that of VPT; its initialisation was read, not run: here it is the paper's "
        "formula, with a pseudo-inverse truncated where the orthogonal part would exceed the matched one. The code "
        "uses the transpose of that inverse and adds the bias of the values",
        measured=False,
    ),
    "frame of pixels": Peer("hjbahng/visual_prompting", "pixel/bahng", "it keeps the epoch that is best on test"),
    "CoOp": Peer("KaiyangZhou/CoOp", "clip/coop", "mixed precision here, half precision there", clip=True),
    "CoCoOp": Peer("KaiyangZhou/CoOp", "clip/cocoop", "as CoOp", clip=True),
    "KgCoOp": Peer("htyao89/KgCoOp", "clip/kgcoop", "as CoOp; its `meta_net`, never used, is left out", clip=True),
    "VPT in CLIP": Peer(MAPLE, "clip/vpt", "as MaPLe", clip=True),
    "IVLP": Peer(MAPLE, "clip/ivlp", "as MaPLe", clip=True),
    "MaPLe": Peer(
        MAPLE, "clip/maple", "prompts keep their precision; there they are rounded to half in every pass", clip=True
    ),
    "PromptSRC": Peer(
        "muzairkhattak/PromptSRC",
        "clip/promptsrc",
        "as MaPLe; only prompts are averaged; there the whole model is, in half precision",
        clip=True,
    ),
    "Tip-Adapter": Peer(
        "gaopengcuhk/Tip-Adapter",
        "clip/tip",
        "only the search of alpha and beta was run; for -F it keeps the epoch that is best on test",
        clip=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--libs", type=Path, help="folder of packages that only the released code needs")
    parser.add_argument("--only", nargs="+", choices=PEERS, metavar="METHOD")
    options = parser.parse_args()
    file = RESULTS / "released.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for method, peer in PEERS.items():
        if peer.measured and method in (options.only or PEERS):
            found[method] = {"commit": commit(options.peers, peer.code), **compared(options, method, peer)}
            print(method, found[method])
    write_json(file, {method: found[method] for method in PEERS if method in found})


def compared(options: argparse.Namespace, method: str, peer: Peer) -> dict[str, object]:
    """Run one comparison in a separate process, because packages of the repositories have the same names."""
    script = f"benchmarks.accuracy.{'released_clip' if peer.clip else 'released_towers'}"
    folders = [str(options.peers / code.replace("/", "+")) for code in (peer.code, DASSL)]
    paths = [str(ROOT), *([str(options.libs)] if options.libs else [])]
    done = subprocess.run(
        [sys.executable, "-m", script, method, *folders],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{method}: {done.stderr[-2000:]}")
    figures: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return figures


def commit(peers: Path, code: str) -> str | None:
    """Hash of the commit that was run; None outside of a clone."""
    folder = peers / code.replace("/", "+")
    done = subprocess.run(["git", "-C", str(folder), "log", "-1", "--format=%H"], capture_output=True, text=True)
    inside = (folder / ".git").exists()
    return done.stdout.strip() or None if inside else None


if __name__ == "__main__":
    main()
