"""The names that options choose from: models, training formats, verification sets.

Kept apart from what they name: options are read without importing torch.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class DataFormat:
    """A format of training data. file: of fr/data/readers/, with its reader.

    needed, used: options that it needs beside --train_data_root, and those that it uses if given.
    """

    file: str
    needed: tuple[str, ...] = ()
    used: tuple[str, ...] = ()


DATASETS = {
    "vgg": DataFormat("vgg", ("train_list", "train_landmarks"), ("train_meta",)),
    "folder": DataFormat("folders", used=("train_landmarks", "aligned")),
    "list": DataFormat("lists", ("train_list",), ("train_landmarks", "aligned")),
    "ms1m": DataFormat("lists", ("train_list",)),
    "imdbface": DataFormat("lists", ("train_list",)),
    "trp": DataFormat("lists", ("train_list",)),
    "tar": DataFormat("tar_shards", used=("train_list", "aligned")),
    "rec": DataFormat("insightface"),
}
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "poly", "cosine", "constant")
# Formats without identities, for tools that run a model on images.
UNLABELLED = {
    "photos": DataFormat("unlabelled", used=("train_list", "train_landmarks", "aligned")),
    "trp_test": DataFormat("unlabelled", ("train_list",)),
}
# Verification sets: part of a list's file name → name of the set; the first that fits.
SET_NAMES = {
    "cfp_fp": "cfp_fp",
    "cfp_ff": "cfp_ff",
    "agedb": "agedb_30",
    "calfw": "calfw",
    "cplfw": "cplfw",
    "lfw": "lfw",
}
SET_LISTS = (  # file names of lists that make a folder a whole set
    *("pairs.txt", "pairs_CALFW.txt", "pairs_CPLFW.txt"),
    *(f"{name}_pair.txt" for name in ("agedb_30", "cfp_fp", "cfp_ff")),  # as insightface's packs are unpacked
    *(f"{name}_ann.txt" for name in ("lfw", "agedb_30", "calfw", "cplfw")),
)
SET_KINDS = ("auto", "lfw", "pairs", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw", "bin")  # values of --val_set
# Options of the systems of docs/coming-from.md, of which none is called so here → what to use instead.
ELSEWHERE = {
    **dict.fromkeys(("learning_rate", "learning-rate"), "--lr"),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "max_epoch"), "--epoch_total_num"),
    **dict.fromkeys(("batch_size", "batch-size", "bs"), "--train_batch_size"),
    **dict.fromkeys(("backbone", "arch", "arch_type", "network", "net"), "--model"),
    **dict.fromkeys(("embedding_size", "embedding-size", "feature_dim", "emb_size"), "--embed_size"),
    **dict.fromkeys(("pre-trained", "pre_trained", "weight_file", "weights", "ckpt"), "--init_from"),
    **dict.fromkeys(("metric", "loss", "head"), "--margin_type; arcface = arc, cosface = cos, see docs/losses.md"),
    **dict.fromkeys(("margin_arc", "margin_cos"), "--m"),
    **dict.fromkeys(("center_loss_alpha", "alpha_center", "center_loss_alfa"), "--center_loss_lr"),
    **dict.fromkeys(("center_loss_factor", "lambda_center"), "--center_loss_weight"),
    **dict.fromkeys(("opt", "optim"), "--optimizer"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "sched"), "--lr_schedule"),
    **dict.fromkeys(("dataset-root", "dataset_root", "dataset_dir", "dataset-dir"), "--train_data_root"),
    **dict.fromkeys(("train-list", "train_img_list_file", "csv"), "--train_list"),
    **dict.fromkeys(("val-list", "test_img_list_file"), "--held_out_list"),
    "meta_file": "--train_meta",
    **dict.fromkeys(("lfw", "lfw_dir", "lfw-dir", "lfw_path"), "--val_data_root"),
    **dict.fromkeys(("lfw_pairs", "lfw-pairs"), "--val_list"),
    **dict.fromkeys(("num-classes", "num_classes"), "nothing: identities are counted in the data"),
    **dict.fromkeys(("resume", "resume_from", "checkpoint"), "--snap_to_resume"),
    **dict.fromkeys(("checkpoint_dir", "checkpoint-dir", "output", "save_dir"), "--snap_folder"),
    **dict.fromkeys(("log_file", "log_dir", "logdir"), "--log_folder"),
    **dict.fromkeys(("workers", "num_workers", "num-workers"), "--dali_threads"),
    **dict.fromkeys(("engine", "plugin_dir", "fr_model", "lm_model"), "nothing: --snap takes .pt and .onnx alike"),
    "feature_dir": "tools/extract_features.py --out",
    "horizontal_flip": "--flipped_emb",
    "compr_config": "nothing: weights aren't compressed in training; tools/export_onnx.py --int8",
    "to-onnx": "tools/export_onnx.py",
}
SET_OPTIONS = ("val_data_root", "val_list", "val_landmarks")  # say where a set is
