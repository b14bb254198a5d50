"""The state dicts of face_recognition.pytorch's backbones, written out from a description of the reference."""

Layout = dict[str, tuple[int, ...]]

# (expansion, channels, blocks), (channels, bottleneck channels, blocks), (channels, blocks), blocks
MOBILENET = [(2, 64, 5), (4, 128, 1), (2, 128, 6), (4, 128, 1), (2, 128, 2)]
RMNET = [(32, 8, 4), (64, 16, 1 + 8), (128, 32, 1 + 10), (256, 64, 1 + 11)]
SHUFFLENET = [(116, 4), (232, 8), (464, 4)]
RESNETS = {
    "resnet": (3, 4, 6, 3),
    "se_resnet": (3, 4, 6, 3),
    "se_resnet50": (3, 4, 6, 3),
    "se_resnet101": (3, 4, 23, 3),
    "se_resnet152": (3, 8, 36, 3),
}
WIDTHS = {"mobilenet": 1.0, "mobilenet_1_5x": 1.5, "mobilenet_2x": 2.0}
NAMES_001 = [*WIDTHS, "rmnet", "shufflenetv2", *RESNETS]


def layout_001(name: str, embed_size: int) -> Layout:
    """Reference key → shape at the designed input size, without `module.` in front and without the head."""
    if name in WIDTHS:
        return _mobilenet(embed_size, WIDTHS[name])
    if name == "rmnet":
        return _rmnet(embed_size)
    if name == "shufflenetv2":
        return _shufflenet(embed_size)
    return _resnet(embed_size, RESNETS[name], squeeze=name != "resnet")


def _conv(key: str, outputs: int, inputs: int, side: int, bias: bool = False) -> Layout:
    """inputs: of each group, so 1 for a depthwise convolution."""
    return {f"{key}.weight": (outputs, inputs, side, side)} | ({f"{key}.bias": (outputs,)} if bias else {})


def _norm(key: str, channels: int) -> Layout:
    vectors = ("weight", "bias", "running_mean", "running_var")
    return {f"{key}.{vector}": (channels,) for vector in vectors} | {f"{key}.num_batches_tracked": ()}


def _slope(key: str) -> Layout:
    return {f"{key}.weight": (1,)}


def _mobilenet(embed_size: int, width: float) -> Layout:
    keys = _norm("features.0.0", 3) | _conv("features.0.1", 64, 3, 3) | _norm("features.0.2", 64)
    keys |= _slope("features.0.3")
    keys |= _conv("features.1", 64, 1, 3) | _norm("features.2", 64) | _slope("features.3")
    index, inputs = 4, 64
    for expansion, unscaled, count in MOBILENET:
        outputs = int(unscaled * width)
        for _ in range(count):
            block, wide = f"features.{index}.inv_block", expansion * inputs
            keys |= _conv(f"{block}.0", wide, inputs, 1) | _norm(f"{block}.1", wide) | _slope(f"{block}.2")
            keys |= _conv(f"{block}.3", wide, 1, 3) | _norm(f"{block}.4", wide) | _slope(f"{block}.5")
            keys |= _conv(f"{block}.6", outputs, wide, 1) | _norm(f"{block}.7", outputs)
            keys |= _conv(f"{block}.8.conv1", outputs // 8, outputs, 1, bias=True)
            keys |= _conv(f"{block}.8.conv2", outputs, outputs // 8, 1, bias=True) | _slope(f"{block}.8.relu")
            index, inputs = index + 1, outputs
    keys |= _conv("features.19.0", 512, inputs, 1) | _norm("features.19.1", 512) | _slope("features.19.2")
    return keys | _conv("dw_pool", 512, 1, 8) | _norm("dw_bn", 512) | _conv("conv1_extra", embed_size, 512, 1)


def _rmnet(embed_size: int) -> Layout:
    stem = "backbone.stages.stage_0"
    keys = _norm(f"{stem}.data_bn", 3) | _conv(f"{stem}.conv1", 32, 3, 3) | _norm(f"{stem}.bn1", 32)
    inputs = 32
    for stage, (outputs, narrow, count) in enumerate(RMNET, 1):
        for index in range(count):
            block = f"backbone.stages.stage_{stage}.{index}"
            keys |= _conv(f"{block}.squeeze_conv", narrow, inputs, 1) | _norm(f"{block}.squeeze_bn", narrow)
            keys |= _conv(f"{block}.dw_conv", narrow, 1, 3) | _norm(f"{block}.dw_bn", narrow)
            keys |= _conv(f"{block}.expand_conv", outputs, narrow, 1) | _norm(f"{block}.expand_bn", outputs)
            if inputs != outputs:
                keys |= _conv(f"{block}.skip_conv", outputs, inputs, 1) | _norm(f"{block}.skip_conv_bn", outputs)
            inputs = outputs
    return keys | _conv("conv1_extra", embed_size, 256, 1)


def _shufflenet(embed_size: int) -> Layout:
    keys = _norm("backbone.bn_first", 3) | _conv("backbone.conv1.0", 24, 3, 3) | _norm("backbone.conv1.1", 24)
    index, inputs = 0, 24
    for outputs, count in SHUFFLENET:
        half = outputs // 2
        for _ in range(count):
            block, seen = f"backbone.features.{index}", half if inputs == outputs else inputs
            if inputs != outputs:
                keys |= _conv(f"{block}.branch1.0", inputs, 1, 3) | _norm(f"{block}.branch1.1", inputs)
                keys |= _conv(f"{block}.branch1.2", half, inputs, 1) | _norm(f"{block}.branch1.3", half)
                keys |= _slope(f"{block}.branch1.4")
            keys |= _conv(f"{block}.branch2.0", half, seen, 1) | _norm(f"{block}.branch2.1", half)
            keys |= _slope(f"{block}.branch2.2")
            keys |= _conv(f"{block}.branch2.3", half, 1, 3) | _norm(f"{block}.branch2.4", half)
            keys |= _conv(f"{block}.branch2.5", half, half, 1) | _norm(f"{block}.branch2.6", half)
            keys |= _slope(f"{block}.branch2.7")
            index, inputs = index + 1, outputs
    last = "backbone.conv_last"
    keys |= _conv(f"{last}.0", 1024, inputs, 1) | _norm(f"{last}.1", 1024) | _slope(f"{last}.2")
    return keys | _conv("global_pool", 1024, 1, 8) | _conv("conv1_extra", embed_size, 1024, 1)


def _resnet(embed_size: int, counts: tuple[int, ...], squeeze: bool) -> Layout:
    keys = _norm("bn_first", 3) | _conv("model.conv1", 64, 3, 3) | _norm("model.bn1", 64)
    inputs = 64
    for layer, (planes, count) in enumerate(zip((64, 128, 256, 512), counts, strict=True), 1):
        outputs = 4 * planes
        for index in range(count):
            block = f"model.layer{layer}.{index}"
            keys |= _conv(f"{block}.conv1", planes, inputs, 1) | _norm(f"{block}.bn1", planes)
            keys |= _conv(f"{block}.conv2", planes, planes, 3) | _norm(f"{block}.bn2", planes)
            keys |= _conv(f"{block}.conv3", outputs, planes, 1) | _norm(f"{block}.bn3", outputs)
            if squeeze:
                keys |= _slope(f"{block}.relu") | _conv(f"{block}.conv_down", planes // 4, outputs, 1)
                keys |= _conv(f"{block}.conv_up", outputs, planes // 4, 1)
            else:
                keys |= _slope(f"{block}.act1") | _slope(f"{block}.act2") | _slope(f"{block}.act3")
            if index == 0:
                keys |= _conv(f"{block}.downsample.0", outputs, inputs, 1) | _norm(f"{block}.downsample.1", outputs)
            inputs = outputs
    return keys | _conv("model.avgpool", 2048, 1, 7) | _conv("model.fc", embed_size, 2048, 1)
