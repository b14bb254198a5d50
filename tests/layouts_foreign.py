"""The state dicts of networks that others train, too: key → shape, written out apart from `fr.models`.

Buffers included, in the order of the state dict. Files of the Caffe ResNets (.pkl) lack num_batches_tracked and add
fc.weight [8631, 2048] and fc.bias.
"""

from collections.abc import Callable

Layout = dict[str, tuple[int, ...]]


def batch_norm(key: str, channels: int) -> Layout:
    per_channel = {f"{key}.{name}": (channels,) for name in ("weight", "bias", "running_mean", "running_var")}
    return {**per_channel, f"{key}.num_batches_tracked": ()}


def layout(name: str, embed_size: int, last_map: tuple[int, int] = (7, 7)) -> Layout:
    """The state dict of `--model name`; `last_map`: (height, width) of the map that an input size ends in."""
    return LAYOUTS[name](embed_size, last_map)


def _iresnet(*counts: int) -> Callable[[int, tuple[int, int]], Layout]:
    def build(embed_size: int, last_map: tuple[int, int]) -> Layout:
        keys: Layout = {"conv1.weight": (64, 3, 3, 3), **batch_norm("bn1", 64), "prelu.weight": (64,)}
        inputs = 64
        for layer, (channels, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True), 1):
            for index in range(count):
                key = f"layer{layer}.{index}"
                keys |= batch_norm(f"{key}.bn1", inputs)
                keys[f"{key}.conv1.weight"] = (channels, inputs, 3, 3)
                keys |= batch_norm(f"{key}.bn2", channels)
                keys[f"{key}.prelu.weight"] = (channels,)
                keys[f"{key}.conv2.weight"] = (channels, channels, 3, 3)
                keys |= batch_norm(f"{key}.bn3", channels)
                if index == 0:
                    keys[f"{key}.downsample.0.weight"] = (channels, inputs, 1, 1)
                    keys |= batch_norm(f"{key}.downsample.1", channels)
                inputs = channels
        keys |= batch_norm("bn2", 512)
        keys["fc.weight"] = (embed_size, 512 * last_map[0] * last_map[1])
        keys["fc.bias"] = (embed_size,)
        return keys | batch_norm("features", embed_size)

    return build


def _caffe_resnet(squeezed: bool) -> Callable[[int, tuple[int, int]], Layout]:
    def build(embed_size: int, _last_map: tuple[int, int]) -> Layout:
        keys: Layout = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
        inputs = 64
        for layer, (channels, count) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], 1):
            outputs = 4 * channels
            for index in range(count):
                key = f"layer{layer}.{index}"
                keys |= {f"{key}.conv1.weight": (channels, inputs, 1, 1), **batch_norm(f"{key}.bn1", channels)}
                keys |= {f"{key}.conv2.weight": (channels, channels, 3, 3), **batch_norm(f"{key}.bn2", channels)}
                keys |= {f"{key}.conv3.weight": (outputs, channels, 1, 1), **batch_norm(f"{key}.bn3", outputs)}
                if index == 0:
                    keys[f"{key}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                    keys |= batch_norm(f"{key}.downsample.1", outputs)
                if squeezed:
                    keys[f"{key}.conv4.weight"] = (outputs // 16, outputs, 1, 1)
                    keys[f"{key}.conv4.bias"] = (outputs // 16,)
                    keys[f"{key}.conv5.weight"] = (outputs, outputs // 16, 1, 1)
                    keys[f"{key}.conv5.bias"] = (outputs,)
                inputs = outputs
        if embed_size != 2048:
            keys |= {"embedding.weight": (embed_size, 2048), "embedding.bias": (embed_size,)}
        return keys

    return build


def _mbf_convolution(key: str, shape: tuple[int, int, int, int], slopes: bool = True) -> Layout:
    keys: Layout = {f"{key}.layers.0.weight": shape, **batch_norm(f"{key}.layers.1", shape[0])}
    return keys | ({f"{key}.layers.2.weight": (shape[0],)} if slopes else {})


def _mbf(embed_size: int, last_map: tuple[int, int]) -> Layout:
    def bottleneck(key: str, inputs: int, wide: int, outputs: int) -> Layout:
        return {
            **_mbf_convolution(f"{key}.layers.0", (wide, inputs, 1, 1)),
            **_mbf_convolution(f"{key}.layers.1", (wide, 1, 3, 3)),
            **_mbf_convolution(f"{key}.layers.2", (outputs, wide, 1, 1), slopes=False),
        }

    keys = _mbf_convolution("layers.0", (128, 3, 3, 3))
    keys |= _mbf_convolution("layers.1", (128, 2, 3, 3))  # 64 groups of two channels
    keys |= bottleneck("layers.2", 128, 128, 128)
    for index in range(4):
        keys |= bottleneck(f"layers.3.layers.{index}", 128, 128, 128)
    keys |= bottleneck("layers.4", 128, 256, 256)
    for index in range(6):
        keys |= bottleneck(f"layers.5.layers.{index}", 256, 256, 256)
    keys |= bottleneck("layers.6", 256, 512, 256)
    for index in range(2):
        keys |= bottleneck(f"layers.7.layers.{index}", 256, 256, 256)
    keys |= _mbf_convolution("conv_sep", (512, 256, 1, 1))
    keys |= _mbf_convolution("features.layers.0", (512, 1, *last_map), slopes=False)
    keys["features.layers.2.weight"] = (embed_size, 512)
    return keys | batch_norm("features.layers.3", embed_size)


def _transformer(width: int, depth: int) -> Callable[[int, tuple[int, int]], Layout]:
    def build(embed_size: int, last_map: tuple[int, int]) -> Layout:
        tokens = (16 * last_map[0] // 9) * (16 * last_map[1] // 9)  # patches of 9 pixels
        keys: Layout = {"pos_embed": (1, tokens, width), "mask_token": (1, 1, width)}
        keys |= {"patch_embed.proj.weight": (width, 3, 9, 9), "patch_embed.proj.bias": (width,)}
        for index in range(depth):
            key = f"blocks.{index}"
            keys |= {f"{key}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
            keys[f"{key}.attn.qkv.weight"] = (3 * width, width)
            keys |= {f"{key}.attn.proj.weight": (width, width), f"{key}.attn.proj.bias": (width,)}
            keys |= {f"{key}.mlp.fc1.weight": (4 * width, width), f"{key}.mlp.fc1.bias": (4 * width,)}
            keys |= {f"{key}.mlp.fc2.weight": (width, 4 * width), f"{key}.mlp.fc2.bias": (width,)}
        keys |= {"norm.weight": (width,), "norm.bias": (width,)}
        keys |= {"feature.0.weight": (width, tokens * width), **batch_norm("feature.1", width)}
        return keys | {"feature.2.weight": (embed_size, width), **batch_norm("feature.3", embed_size)}

    return build


def _mobilefacenet(embed_size: int, last_map: tuple[int, int]) -> Layout:
    def convolution(key: str, shape: tuple[int, int, int, int], slopes: bool = True) -> Layout:
        keys: Layout = {f"{key}.conv.weight": shape, **batch_norm(f"{key}.bn", shape[0])}
        return keys | ({f"{key}.prelu.weight": (shape[0],)} if slopes else {})

    keys = convolution("conv1", (64, 3, 3, 3)) | convolution("dw_conv1", (64, 1, 3, 3))
    inputs = 64
    # (expansion, channels): the 15 bottlenecks of the paper's Table 1, one by one
    bottlenecks = [(2, 64)] * 5 + [(4, 128)] + [(2, 128)] * 6 + [(4, 128)] + [(2, 128)] * 2
    for index, (expansion, outputs) in enumerate(bottlenecks):
        key, wide = f"blocks.{index}.conv", expansion * inputs
        keys |= {f"{key}.0.weight": (wide, inputs, 1, 1), **batch_norm(f"{key}.1", wide), f"{key}.2.weight": (wide,)}
        keys |= {f"{key}.3.weight": (wide, 1, 3, 3), **batch_norm(f"{key}.4", wide), f"{key}.5.weight": (wide,)}
        keys |= {f"{key}.6.weight": (outputs, wide, 1, 1), **batch_norm(f"{key}.7", outputs)}
        inputs = outputs
    keys |= convolution("conv2", (512, 128, 1, 1)) | convolution("linear7", (512, 1, *last_map), slopes=False)
    return keys | convolution("linear1", (embed_size, 512, 1, 1), slopes=False)


def _ir(*counts: int) -> Callable[[int, tuple[int, int]], Layout]:
    def build(embed_size: int, last_map: tuple[int, int]) -> Layout:
        keys: Layout = {"input_layer.0.weight": (64, 3, 3, 3), **batch_norm("input_layer.1", 64)}
        keys |= {"input_layer.2.weight": (64,), **batch_norm("output_layer.0", 512)}
        keys["output_layer.3.weight"] = (embed_size, 512 * last_map[0] * last_map[1])
        keys["output_layer.3.bias"] = (embed_size,)
        without_scale = batch_norm("output_layer.4", embed_size)
        keys |= {key: shape for key, shape in without_scale.items() if not key.endswith(("weight", "bias"))}
        inputs = 64
        widths = [channels for channels, count in zip((64, 128, 256, 512), counts, strict=True) for _ in range(count)]
        for index, channels in enumerate(widths):
            key = f"body.{index}"
            if inputs != channels:
                keys[f"{key}.shortcut_layer.0.weight"] = (channels, inputs, 1, 1)
                keys |= batch_norm(f"{key}.shortcut_layer.1", channels)
            keys |= batch_norm(f"{key}.res_layer.0", inputs)
            keys[f"{key}.res_layer.1.weight"] = (channels, inputs, 3, 3)
            keys |= batch_norm(f"{key}.res_layer.2", channels)
            keys[f"{key}.res_layer.3.weight"] = (channels,)
            keys[f"{key}.res_layer.4.weight"] = (channels, channels, 3, 3)
            keys |= batch_norm(f"{key}.res_layer.5", channels)
            inputs = channels
        return keys

    return build


def _inception_resnet_v1(embed_size: int, _last_map: tuple[int, int]) -> Layout:
    def convolution(key: str, inputs: int, outputs: int, height: int, width: int) -> Layout:
        return {f"{key}.conv.weight": (outputs, inputs, height, width), **batch_norm(f"{key}.bn", outputs)}

    def branches(key: str, inputs: int, *rows: list[tuple[int, int, int]]) -> Layout:
        """A row a branch, of (outputs, height, width)."""
        keys: Layout = {}
        for number, row in enumerate(rows):
            channels = inputs
            for place, (outputs, height, width) in enumerate(row):
                # A branch of one convolution isn't a sequence, but that convolution.
                name = f"{key}.branch{number}" + (f".{place}" if len(row) > 1 else "")
                keys |= convolution(name, channels, outputs, height, width)
                channels = outputs
        return keys

    def residual(key: str, channels: int, *rows: list[tuple[int, int, int]]) -> Layout:
        wide = sum(row[-1][0] for row in rows)
        weight = {f"{key}.conv2d.weight": (channels, wide, 1, 1), f"{key}.conv2d.bias": (channels,)}
        return branches(key, channels, *rows) | weight

    keys = convolution("conv2d_1a", 3, 32, 3, 3) | convolution("conv2d_2a", 32, 32, 3, 3)
    keys |= convolution("conv2d_2b", 32, 64, 3, 3) | convolution("conv2d_3b", 64, 80, 1, 1)
    keys |= convolution("conv2d_4a", 80, 192, 3, 3) | convolution("conv2d_4b", 192, 256, 3, 3)
    one, three = (32, 1, 1), (32, 3, 3)
    for index in range(5):
        keys |= residual(f"repeat_1.{index}", 256, [one], [one, three], [one, three, three])
    keys |= branches("mixed_6a", 256, [(384, 3, 3)], [(192, 1, 1), (192, 3, 3), (256, 3, 3)])
    for index in range(10):
        keys |= residual(f"repeat_2.{index}", 896, [(128, 1, 1)], [(128, 1, 1), (128, 1, 7), (128, 7, 1)])
    first = (256, 1, 1)
    keys |= branches("mixed_7a", 896, [first, (384, 3, 3)], [first, (256, 3, 3)], [first, (256, 3, 3), (256, 3, 3)])
    for key in (*(f"repeat_3.{index}" for index in range(5)), "block8"):
        keys |= residual(key, 1792, [(192, 1, 1)], [(192, 1, 1), (192, 1, 3), (192, 3, 1)])
    keys["last_linear.weight"] = (embed_size, 1792)
    return keys | batch_norm("last_bn", embed_size)


LAYOUTS = {
    "resnet50_caffe": _caffe_resnet(squeezed=False),
    "senet50_caffe": _caffe_resnet(squeezed=True),
    "iresnet18": _iresnet(2, 2, 2, 2),
    "iresnet34": _iresnet(3, 4, 6, 3),
    "iresnet50": _iresnet(3, 4, 14, 3),
    "iresnet100": _iresnet(3, 13, 30, 3),
    "iresnet200": _iresnet(6, 26, 60, 6),
    "ir18": _ir(2, 2, 2, 2),
    "ir34": _ir(3, 4, 6, 3),
    "ir50": _ir(3, 4, 14, 3),
    "ir101": _ir(3, 13, 30, 3),
    "mbf": _mbf,
    "vit_t": _transformer(256, 12),
    "vit_s": _transformer(512, 12),
    "vit_b": _transformer(512, 24),
    "mobilefacenet": _mobilefacenet,
    "inception_resnet_v1": _inception_resnet_v1,
}
