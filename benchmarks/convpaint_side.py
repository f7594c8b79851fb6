"""napari-convpaint as its widget runs it, by an interpreter that has it: times, or labels.

``python convpaint_side.py IN.npz OUT.npz``; IN holds ``job`` (JSON: ``mode`` time or labels,
``alias``, ``threads``, ``count``), ``image_<i>`` and ``scribbles_<i>_<k>``. Networks get random
weights, for no hub is reached: nothing is said about how good they are.
"""

import json
import sys
import time

import numpy as np
import timm
import torch
import torchvision


class Dino(torch.nn.Module):
    """The architecture that convpaint loads, with its answers."""

    def __init__(self) -> None:
        super().__init__()
        name = "vit_small_patch14_reg4_dinov2.lvd142m"
        self.m = timm.create_model(name, pretrained=False, dynamic_img_size=True, num_classes=0)

    def forward_features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        tokens = self.m.forward_features(x)
        return {"x_norm_patchtokens": tokens[:, self.m.num_prefix_tokens :]}


def main(source: str, target: str) -> None:
    """Do the job of `source`."""
    from napari_convpaint.convpaint_model import ConvpaintModel
    from napari_convpaint.feature_extractors import dino, nnlayers

    given = np.load(source)
    job = json.loads(str(given["job"]))
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    dino.Dinov2Features.create_model = staticmethod(lambda name: Dino().eval())
    nnlayers.Hookmodel.create_model = staticmethod(
        lambda name: torchvision.models.vgg16(weights=None).eval()
    )
    models = {}  # one for each mode: it does not change its mind about channels
    found: dict[str, np.ndarray] = {}
    times: list[float] = []
    for i in range(job["count"]):
        image = given[f"image_{i}"]
        mode = "rgb" if image.ndim == 3 else "single"
        if mode not in models:
            models[mode] = ConvpaintModel(job["alias"])
            models[mode].set_params(channel_mode=mode)
        model = models[mode]
        for k in range(job["shares"]):
            begun = time.perf_counter()
            model.train(image, given[f"scribbles_{i}_{k}"])
            labels = model.segment(image)
            times.append(time.perf_counter() - begun)
            found[f"labels_{i}_{k}"] = np.asarray(labels, np.uint8)
    np.savez(target, times=np.array(times), **found)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
