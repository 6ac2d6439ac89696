"""Runs the authors' released code beside ours on the same weights, and writes results/released.json.

    pip install --target LIBS yacs ml_collections fvcore
    python -m benchmarks.accuracy.released PEERS --libs LIBS  # PEERS/OWNER+NAME is a clone of github.com/OWNER/NAME

Small networks with random weights, float32, on a CPU. Of features and of the gradients of one loss the largest
difference is told, as a share of the largest value of the released side. Nothing of that code is in this repository.
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
    """One comparison: who released it, and what the table says beside its figures."""

    code: str
    recipe: str
    differs: str
    clip: bool = False
    measured: bool = True


VPT, MAPLE = "KMnP/vpt", "muzairkhattak/multimodal-prompt-learning"
PEERS = {
    "VPT-shallow": Peer(VPT, "bench/vtab-vpt-shallow", "nothing known"),
    "VPT-deep": Peer(VPT, "bench/vtab-vpt-deep, bench/fgvc-vpt-deep", "`REVERSE_DEEP` is not imitated"),
    "VPT-deep, bottleneck": Peer(VPT, "", "nothing known"),
    "VPT-deep on MAE": Peer(VPT, "bench/vtab-vpt-deep-mae", "nothing known, with `head.pool=mean_then_norm`"),
    "VFPT": Peer(
        "runtsang/VFPT",
        "bench/vtab-vfpt",
        "transformed tokens stand first, in all layers, over both axes: its default of several forms",
    ),
    "E2VPT": Peer("ChengHan111/E2VPT", "bench/vtab-e2vpt", "nothing known in its default of several forms"),
    "E2VPT, tokens pruned": Peer(
        "ChengHan111/E2VPT",
        "",
        "a segment is a run of channels, there every sixteenth one; importance is the mean of absolute derivatives by "
        "the masks, there of signed ones",
    ),
    "VAPT": Peer("Minhchuyentoancbn/VAPT", "bench/vtab-vapt", "nothing known in its default of several forms"),
    "CVPT": Peer(
        "Lingyun0419/CVPT",
        "bench/vtab-cvpt",
        "the cross-attention's weights are the layer's own, there copies of them; LayerScale, where a backbone has it, "
        "acts on the branch too",
    ),
    "gated": Peer("ryongithub/GatedPromptTuning", "bench/fgvc-gated-mae", "nothing known"),
    "SPT": Peer(
        "WangYZ1608/Self-Prompt-Tuning",
        "bench/fgvc-spt-mae",
        "patch tokens are drawn here, there they come from a file; it tests a running mean of the weights, at the "
        "epoch that is best on test",
    ),
    "BPT": Peer(
        "WangYZ1608/BPT",
        "bench/fgvc-bpt-mae",
        "whitening leaves out directions that no image reaches, where it divides by next to zero; it tests as SPT",
    ),
    "VIPAMIN": Peer(
        "iamjaekyun/vipamin",
        "bench/vtab-vipamin-mae",
        "the forward pass is that of VPT; the start was read, not run: here it is the paper's formula, its "
        "pseudo-inverse cut where the orthogonal part would outgrow the matched one. The code takes the transpose of "
        "that inverse and adds the bias of the values",
        measured=False,
    ),
    "frame of pixels": Peer("hjbahng/visual_prompting", "pixel/bahng", "it keeps the epoch that is best on test"),
    "CoOp": Peer("KaiyangZhou/CoOp", "clip/coop", "mixed precision, where it computes in half precision", clip=True),
    "CoCoOp": Peer("KaiyangZhou/CoOp", "clip/cocoop", "as CoOp", clip=True),
    "KgCoOp": Peer("htyao89/KgCoOp", "clip/kgcoop", "as CoOp; its `meta_net`, never used, is left out", clip=True),
    "VPT in CLIP": Peer(MAPLE, "clip/vpt", "as MaPLe", clip=True),
    "IVLP": Peer(MAPLE, "clip/ivlp", "as MaPLe", clip=True),
    "MaPLe": Peer(
        MAPLE, "clip/maple", "prompts keep their precision, where it rounds them to half in every pass", clip=True
    ),
    "PromptSRC": Peer(
        "muzairkhattak/PromptSRC",
        "clip/promptsrc",
        "as MaPLe; prompts alone are averaged, where it averages the whole model in half precision",
        clip=True,
    ),
    "Tip-Adapter": Peer(
        "gaopengcuhk/Tip-Adapter",
        "clip/tip",
        "of the code the search of alpha and beta was run; of -F it keeps the epoch that is best on test",
        clip=True,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    parser.add_argument("--libs", type=Path, help="what the released code imports and we do not")
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
    """In a process of its own, for the repositories' packages have the same names."""
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
    """Which one was run; None outside of a clone."""
    folder = peers / code.replace("/", "+")
    done = subprocess.run(["git", "-C", str(folder), "log", "-1", "--format=%H"], capture_output=True, text=True)
    inside = (folder / ".git").exists()
    return done.stdout.strip() or None if inside else None


if __name__ == "__main__":
    main()
