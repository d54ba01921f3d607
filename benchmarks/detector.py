"""How often a detector finds what is in real pictures, and how fast.

    python -m benchmarks.detector --centernet DIR --data_dir DIR

CenterNet on the ImageNet crops (TFDS `imagenet_sample`, one a class) whose class is one of COCO's. Prints one
JSON object: the share of pictures in which the class is found and the mean number of other classes found, at
each threshold; pictures a second, compilation apart.
"""

import argparse
import json
import time

import jax
import numpy as np
import tensorflow_datasets as tfds

from imgen.evaluation.detectors.detector import Detector
from imgen.evaluation.prompts.detections import COCO_CLASSES
from imgen.interop import centernet

THRESHOLDS = (0.2, 0.3)
# COCO's classes by the numbers of ImageNet's that are such objects; of birds and dogs some.
IMAGENET = {
    "bicycle": (444, 671), "car": (436, 468, 511, 609, 627, 656, 661, 817), "motorcycle": (665, 670),
    "airplane": (404, 895), "bus": (654, 779, 874), "train": (466, 547, 820, 829),
    "truck": (555, 569, 675, 717, 864, 867), "boat": (472, 484, 554, 576, 625, 780, 814, 914),
    "traffic light": (920,), "parking meter": (704,), "bench": (703,), "bird": (10, 11, 13, 15, 16, 17, 18),
    "cat": (281, 282, 283, 284, 285), "dog": (151, 207, 208, 235, 242, 250, 254, 258), "horse": (339,),
    "sheep": (348,), "cow": (345,), "elephant": (385, 386), "bear": (294, 295, 296), "zebra": (340,),
    "backpack": (414,), "umbrella": (879,), "handbag": (748,), "tie": (906,), "skis": (795,),
    "sports ball": (430, 805, 852), "tennis racket": (752,), "bottle": (440, 737, 898, 907),
    "wine glass": (572, 966), "cup": (504, 968), "bowl": (659, 809), "banana": (954,), "apple": (948,),
    "orange": (950,), "broccoli": (937,), "hot dog": (934,), "pizza": (963,), "chair": (559, 765),
    "couch": (831,), "potted plant": (738,), "bed": (564,), "dining table": (532,), "toilet": (861,),
    "tv": (664, 851), "laptop": (620, 681), "mouse": (673,), "remote": (761,), "keyboard": (508, 878),
    "cell phone": (487,), "microwave": (651,), "oven": (827,), "toaster": (859,), "sink": (896,),
    "refrigerator": (760,), "clock": (409, 892), "vase": (883,), "teddy bear": (850,),
}  # fmt: skip


def pictures(data_dir: str) -> tuple[np.ndarray, list[str]]:
    """Reads images uint8 [N, 256, 256, 3] and the COCO class of each."""
    source = tfds.data_source("imagenet_sample", data_dir=data_dir, split="train")
    of = {number: name for name, numbers in IMAGENET.items() for number in numbers}
    found = [(x["image"], of[x["label"]]) for x in source if x["label"] in of]
    return np.stack([image for image, _ in found]), [name for _, name in found]


def measure(detector: Detector, images: np.ndarray, names: list[str]) -> dict:
    """Measures what the module says."""
    detector.detect(images[:1])
    began = time.monotonic()
    found = detector.detect(images)
    seconds = time.monotonic() - began
    result = {
        "detector": detector.name,
        "images": len(images),
        "images_per_s": len(images) / seconds,
    }
    for threshold in THRESHOLDS:
        seen = [{COCO_CLASSES[n] for n in d.classes[d.scores > threshold]} for d in found]
        result[f"found@{threshold}"] = float(
            np.mean([n in s for n, s in zip(names, seen, strict=True)])
        )
        others = [len(s - {n}) for n, s in zip(names, seen, strict=True)]
        result[f"others@{threshold}"] = float(np.mean(others))
    return result | {"device": jax.devices()[0].device_kind}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--centernet", required=True, help="folder of centernet.json and .bin")
    parser.add_argument("--data_dir", required=True, help="TFDS folder with imagenet_sample")
    args = parser.parse_args()
    print(json.dumps(measure(centernet.load(args.centernet), *pictures(args.data_dir))))


if __name__ == "__main__":
    main()
