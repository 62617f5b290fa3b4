"""`fluxcompile bench` on the models of the README; results go to out/bench/.

    python benchmarks/run.py [--pattern both] [--threads 1,2] [-o DIR] [any option of `fluxcompile bench`]

Zoo models have random weights, which costs the same time; those of the shared folder (FLUX_SHARED) have real ones.
"""

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("FLUX_SHARED", REPO.parent / "shared")) / "data" / "models"
ZOO = ("zoo:resnet-50", "zoo:mobilenet-large", "zoo:vit-small", "zoo:swin-tiny")
FILES = ("yolo11n.onnx", "yolo11n-pose.onnx", "yolox_nano.onnx", "espnetv2_s2_cityscapes.onnx")


def models() -> list[str]:
    """The zoo, and the files that are here; without them the zoo's own yolo11n."""
    there = [str(SHARED / name) for name in FILES if (SHARED / name).exists()]
    return [*(there or ["zoo:yolo11n"]), *ZOO]


if __name__ == "__main__":
    from fluxcompile.cli import main

    given = sys.argv[1:]
    folder = [] if {"-o", "--output"} & set(given) else ["-o", "out/bench"]
    sys.argv[1:] = ["bench", *models(), *folder, *given]
    main()
