"""Write tests/golden/mmdet2.npz: what mmdet 2, which GenEval names, computes with a tiny network.

    MMCV_WITH_OPS=0 PIP_CONSTRAINT=FILE pip install --target LIB --no-deps mmdet==2.28.2 \\
        mmcv==1.7.2 terminaltables addict yapf platformdirs pycocotools shapely \\
        opencv-python-headless
    PYTHONPATH=LIB python -m tests.oracles.make_mmdet2_golden

FILE holds `setuptools<70`, without which mmcv's source package is not built. Nothing is compiled:
the deformable attention runs by mmcv's own PyTorch function. The network is that of mmdet's config
of the detector, its sizes made small; its tensors have the names of 2.x, and are drawn from them.
"""

import pathlib
import sys
from unittest import mock

import numpy as np
import torch

from tests.oracles.make_mmdet_golden import CROPPED, INPUT, ORIGINAL, SIZES, SWIN, fill, stubs

OUT = pathlib.Path(__file__).parent.parent / "golden" / "mmdet2.npz"
IMAGE = (427, 640)  # whose pixels are prepared: 800 x 1199, padded to 1216
POINTS = 500  # of these
FACTS = {"filename": "", "ori_filename": "", "img_shape": (*IMAGE, 3), "ori_shape": (*IMAGE, 3)}
CONFIG = "mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py"


def shrink(model) -> None:
    """Make the sizes of mmdet's config small."""
    s, width = SIZES, SIZES["width"]
    model.backbone.update(**SWIN, drop_path_rate=0.0, init_cfg=None, convert_weights=False)
    head, fusion = model.panoptic_head, model.panoptic_fusion_head
    head.update(
        in_channels=[SWIN["embed_dims"] * 2**k for k in range(4)],
        feat_channels=width,
        out_channels=width,
        num_things_classes=s["classes"],
        num_stuff_classes=0,
        num_queries=s["queries"],
    )
    fusion.num_things_classes, fusion.num_stuff_classes = s["classes"], 0
    head.loss_cls.class_weight = [1.0] * s["classes"] + [0.1]
    encoder, decoder = head.pixel_decoder.encoder, head.transformer_decoder
    encoder.num_layers, decoder.num_layers = s["encoder_layers"], s["decoder_layers"]
    encoder.transformerlayers.attn_cfgs.update(embed_dims=width, num_heads=s["heads"])
    encoder.transformerlayers.ffn_cfgs.update(
        embed_dims=width, feedforward_channels=s["encoder_mlp"]
    )
    decoder.transformerlayers.attn_cfgs.update(embed_dims=width, num_heads=s["heads"])
    decoder.transformerlayers.ffn_cfgs.update(
        embed_dims=width, feedforward_channels=s["decoder_mlp"]
    )
    decoder.transformerlayers.feedforward_channels = s["decoder_mlp"]
    for one in (head.pixel_decoder.positional_encoding, head.positional_encoding):
        one.num_feats = width // 2


def prepare(steps) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column) of points, [POINTS, 2], and the input of the network there."""
    from mmdet.datasets.pipelines import Compose

    rng = np.random.default_rng(11)
    image = rng.integers(0, 256, (*IMAGE, 3), dtype=np.uint8)
    found = Compose(steps[1:])({"img": image[..., ::-1].copy(), "img_fields": ["img"]} | FACTS)
    (pixels,) = (one.numpy() for one in found["img"])  # [3, H, W]
    height, width = pixels.shape[1:]
    places = np.stack([rng.integers(0, height, POINTS), rng.integers(0, width, POINTS)], axis=1)
    places[:20] = [height - 1, width - 1] - rng.integers(0, 16, (20, 2))  # of the padding
    return places, pixels[:, places[:, 0], places[:, 1]].T


def main() -> None:
    """Run mmdet 2 and write the file."""
    stubs()
    for name in ("", ".pyplot", ".collections", ".patches"):  # for drawing
        sys.modules.setdefault(f"matplotlib{name}", mock.MagicMock())
    import mmcv
    import mmdet
    from mmdet.models import build_backbone, build_head

    path = pathlib.Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIG
    config = mmcv.Config.fromfile(str(path))
    model = config.model
    shrink(model)
    backbone, head = build_backbone(model.backbone), build_head(model.panoptic_head)
    fusion = build_head(model.panoptic_fusion_head | {"test_cfg": model.test_cfg})
    for module in (backbone, head, fusion):
        module.eval()
    shapes = fill((("backbone", backbone), ("panoptic_head", head)))
    x = np.random.default_rng(7).normal(size=(1, *INPUT, 3)).astype(np.float32)
    with torch.inference_mode():
        features = backbone(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        meta = {"img_shape": (*CROPPED, 3), "ori_shape": (*ORIGINAL, 3)}
        meta |= {"batch_input_shape": INPUT, "pad_shape": (*INPUT, 3)}
        classes, masks = (every[-1] for every in head(features, [meta]))
        classes, larger = head.simple_test(features, [meta])
        (found,) = fusion.simple_test(classes, larger, [meta], rescale=True)
    labels, boxes, binary = (part.numpy() for part in found["ins_results"])
    places, pixels = prepare(config.data.test.pipeline)
    np.savez_compressed(
        OUT,
        places=places,
        pixels=pixels,
        keys=np.array(list(shapes)),
        shapes=np.array(["x".join(map(str, shape)) for shape in shapes.values()]),
        features=features[-1].numpy().transpose(0, 2, 3, 1),
        classes=classes[0].numpy(),
        masks=masks[0].numpy(),
        labels=labels,
        scores=boxes[:, 4],
        boxes=boxes[:, :4],
        areas=binary.sum(axis=(1, 2)),
    )
    print(f"{OUT}: {len(shapes)} tensors, {len(labels)} instances")


if __name__ == "__main__":
    main()
