"""The names that options choose from: models, training formats, verification sets.

Kept apart from what they name: options are read without importing torch.
"""

TIMM = "timm/"  # begins the name of a model that the package timm has; which those are, timm alone knows
BACKBONES = {  # file of fr/models/ → its models
    "mobilenet": ("mobilenet", "mobilenet_1_5x", "mobilenet_2x"),
    "rmnet": ("rmnet",),
    "shufflenet": ("shufflenetv2",),
    "se_resnet": ("resnet", "se_resnet", "se_resnet50", "se_resnet101", "se_resnet152"),
    "torchvision_resnet": ("resnet34", "resnet50", "resnet101"),
    "caffe_resnet": ("resnet50_caffe", "senet50_caffe"),
    "iresnet": ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200"),
    "insightface_mbf": ("mbf",),
    "mobilefacenet": ("mobilefacenet",),
}
MODEL_NAMES = tuple(name for names in BACKBONES.values() for name in names)
# The formats of the training data: what each needs beside --train_data_root, and what else it uses.
DATASETS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "vgg": (("train_list", "train_landmarks"), ("train_meta",)),
    "folder": ((), ("train_landmarks", "aligned")),
    "list": (("train_list",), ("train_landmarks", "aligned")),
    "ms1m": (("train_list",), ()),
    "imdbface": (("train_list",), ()),
    "trp": (("train_list",), ()),
    "tar": ((), ("train_list", "aligned")),
    "rec": ((), ()),
}
# The same of photographs of nobody in particular, which tools may show to a model.
UNLABELLED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "photos": ((), ("train_list", "train_landmarks", "aligned")),
    "trp_test": (("train_list",), ()),
}
SET_KINDS = ("auto", "lfw", "pairs", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw", "bin")  # of --val_set
