"""Write tests/golden/mmdet.npz: what mmdet computes with a tiny Mask2Former of random weights.

    python tests/oracles/make_mmdet_golden.py

Runs where mmdet 3.3.0, mmcv-lite 2.1.0 and mmengine 0.10.7 are installed, which are no requirement
of ours; nothing is compiled and torchvision is not needed: what they import and do not use here is
replaced by stubs. The weights are drawn from the names of the tensors, so the file holds names,
shapes, inputs' seeds and results alone.
"""

import pathlib
import sys
import types
import zlib
from unittest import mock

import numpy as np
import torch

OUT = pathlib.Path(__file__).parent.parent / "golden" / "mmdet.npz"
SIZES = {
    "width": 32,
    "encoder_mlp": 48,
    "decoder_mlp": 40,
    "encoder_layers": 2,
    "decoder_layers": 4,
    "heads": 4,
    "queries": 25,
    "classes": 5,
}
SWIN = {"embed_dims": 12, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": 7}
INPUT = (101, 75)  # of the network: maps smaller than a window, padded everywhere
CROPPED, ORIGINAL = (90, 70), (57, 77)  # of the post-processing


def stubs() -> None:
    """Put modules that mmdet imports and does not need here in place of those that are missing."""
    sys.modules["mmcv._ext"] = mock.MagicMock(name="mmcv._ext")
    for name in ("torchvision", "torchvision.ops", "torchvision.transforms", "torchvision.models"):
        module = types.ModuleType(name)
        module.__getattr__ = lambda attribute: mock.MagicMock(name=attribute)
        module.__version__ = "0.28.0"
        sys.modules.setdefault(name, module)


def draw(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers of a tensor by its name; around 1 for the weights of norms."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    noise = 0.2 * rng.normal(size=shape)
    return (noise + (key.endswith("weight") and len(shape) == 1)).astype(np.float32)


def build():
    """Return mmdet's backbone, head and fusion head."""
    from mmdet.models.backbones import SwinTransformer
    from mmdet.models.dense_heads import Mask2FormerHead
    from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead

    s, width = SIZES, SIZES["width"]
    attention = {"embed_dims": width, "num_heads": s["heads"], "batch_first": True}
    encoder = {
        "num_layers": s["encoder_layers"],
        "layer_cfg": {
            "self_attn_cfg": attention | {"num_levels": 3, "num_points": 4},
            "ffn_cfg": {
                "embed_dims": width,
                "feedforward_channels": s["encoder_mlp"],
                "num_fcs": 2,
                "act_cfg": {"type": "ReLU", "inplace": True},
            },
        },
    }
    decoder = {
        "return_intermediate": True,
        "num_layers": s["decoder_layers"],
        "layer_cfg": {
            "self_attn_cfg": attention,
            "cross_attn_cfg": attention,
            "ffn_cfg": {
                "embed_dims": width,
                "feedforward_channels": s["decoder_mlp"],
                "num_fcs": 2,
                "act_cfg": {"type": "ReLU", "inplace": True},
            },
        },
        "init_cfg": None,
    }
    positions = {"num_feats": width // 2, "normalize": True}
    from mmengine.config import ConfigDict

    pixels = {
        "type": "MSDeformAttnPixelDecoder",
        "num_outs": 3,
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "act_cfg": {"type": "ReLU"},
        "encoder": encoder,
        "positional_encoding": positions,
    }
    head = Mask2FormerHead(
        in_channels=[SWIN["embed_dims"] * 2**k for k in range(4)],
        feat_channels=width,
        out_channels=width,
        num_things_classes=s["classes"],
        num_stuff_classes=0,
        num_queries=s["queries"],
        num_transformer_feat_level=3,
        pixel_decoder=ConfigDict(pixels),
        enforce_decoder_input_project=False,
        positional_encoding=ConfigDict(positions),
        transformer_decoder=ConfigDict(decoder),
        loss_cls=ConfigDict(
            type="CrossEntropyLoss", class_weight=[1.0] * s["classes"] + [0.1], loss_weight=2.0
        ),
        strides=[4, 8, 16, 32],
    )
    backbone = SwinTransformer(
        **SWIN, out_indices=(0, 1, 2, 3), drop_path_rate=0.0, convert_weights=False
    )
    fusion = MaskFormerFusionHead(
        num_things_classes=s["classes"],
        num_stuff_classes=0,
        test_cfg={"max_per_image": 100, "instance_on": True, "panoptic_on": False},
    )
    for module in (backbone, head, fusion):
        module.eval()  # of the backbone it returns nothing
    return backbone, head, fusion


def fill(modules) -> dict[str, tuple[int, ...]]:
    """Draw every tensor of (prefix, module); returns name -> shape."""
    shapes = {}
    for prefix, module in modules:
        state = module.state_dict()
        for key, value in state.items():
            if value.dtype == torch.float32:
                name = f"{prefix}.{key}"
                shapes[name] = tuple(value.shape)
                state[key] = torch.from_numpy(draw(name, tuple(value.shape)))
        module.load_state_dict(state)
    return shapes


def main() -> None:
    """Run mmdet and write the file."""
    stubs()
    from mmdet.utils import register_all_modules

    register_all_modules()
    backbone, head, fusion = build()
    tensors = fill((("backbone", backbone), ("panoptic_head", head)))
    x = np.random.default_rng(7).normal(size=(1, *INPUT, 3)).astype(np.float32)
    with torch.inference_mode():
        features = backbone(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        from mmdet.structures import DetDataSample

        sample = DetDataSample(metainfo={"img_shape": INPUT, "batch_input_shape": INPUT})
        classes, masks = head(features, [sample])
        classes, masks = classes[-1][0], masks[-1][0]
        larger = torch.nn.functional.interpolate(
            masks[None], size=INPUT, mode="bilinear", align_corners=False
        )[0, :, : CROPPED[0], : CROPPED[1]]
        larger = torch.nn.functional.interpolate(
            larger[:, None], size=ORIGINAL, mode="bilinear", align_corners=False
        )[:, 0]
        found = fusion.instance_postprocess(classes, larger)
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        OUT,
        keys=np.array(list(tensors)),
        shapes=np.array(["x".join(map(str, shape)) for shape in tensors.values()]),
        features=features[-1].numpy().transpose(0, 2, 3, 1),
        classes=classes.numpy(),
        masks=masks.numpy(),
        labels=found.labels.numpy(),
        scores=found.scores.numpy(),
        boxes=found.bboxes.numpy(),
        areas=found.masks.numpy().sum(axis=(1, 2)),
    )
    print(f"{OUT}: {len(tensors)} tensors, {len(found.labels)} instances")


if __name__ == "__main__":
    main()
