"""Names that are values of options: models, training formats, verification sets.

They are separate from the code that they name, since options are read without importing torch.
"""

from dataclasses import dataclass

TIMM = "timm/"  # prefix of the names of models from the package timm, which aren't listed here
BACKBONES = {  # module of fr/models/ → its models
    "mobilenet": ("mobilenet", "mobilenet_1_5x", "mobilenet_2x"),
    "rmnet": ("rmnet",),
    "shufflenet": ("shufflenetv2",),
    "se_resnet": ("resnet", "se_resnet", "se_resnet50", "se_resnet101", "se_resnet152"),
    "torchvision_resnet": ("resnet34", "resnet50", "resnet101"),
    "caffe_resnet": ("resnet50_caffe", "senet50_caffe"),
    "iresnet": ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "iresnet200"),
    "ir": ("ir18", "ir34", "ir50", "ir101"),
    "insightface_mbf": ("mbf",),
    "insightface_vit": ("vit_t", "vit_s", "vit_b"),
    "mobilefacenet": ("mobilefacenet",),
    "inception_resnet_v1": ("inception_resnet_v1",),
}
PRETRAINED = BACKBONES["torchvision_resnet"]  # have ImageNet weights of torchvision for --pretrained
MODEL_NAMES = tuple(name for names in BACKBONES.values() for name in names)


@dataclass(frozen=True)
class DataFormat:
    """A format of training data. file: module of fr/data/readers/ with its reader.

    needed: options that it needs in addition to --train_data_root. used: further options that it uses.
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
    "tar": DataFormat("tar", used=("train_list", "aligned")),
    "rec": DataFormat("insightface"),
    "lmdb": DataFormat("lmdb"),
    "parquet": DataFormat("parquet", used=("train_list", "aligned")),
}
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("step", "poly", "cosine", "constant")
# Formats without identities, for tools that run a model on images.
UNLABELLED = {
    "photos": DataFormat("unlabelled", used=("train_list", "train_landmarks", "aligned")),
    "trp_test": DataFormat("unlabelled", ("train_list",)),
}
# Verification sets: part of a list's file name → name of the set; the first match counts.
SET_NAMES = {
    "cfp_fp": "cfp_fp",
    "cfp_ff": "cfp_ff",
    "agedb": "agedb_30",
    "calfw": "calfw",
    "cplfw": "cplfw",
    "lfw": "lfw",
}
SET_LISTS = (  # file names of lists by which a folder is recognised as a complete set
    *("pairs.txt", "pairs_CALFW.txt", "pairs_CPLFW.txt"),
    *(f"{name}_pair.txt" for name in ("agedb_30", "cfp_fp", "cfp_ff")),  # of unpacked packs of insightface
    *(f"{name}_ann.txt" for name in ("lfw", "agedb_30", "calfw", "cplfw")),
)
SET_FORMS = {  # module of fr/data/pairs/ → kinds of its sets; if a path has several forms, the first counts
    "cfp": ("cfp_fp", "cfp_ff"),
    "agedb": ("agedb",),
    "insightface_bin": ("bin",),
    "pair_lists": ("lfw", "pairs", "agedb_30", "calfw", "cplfw"),
}
SET_KINDS = ("auto", *(kind for kinds in SET_FORMS.values() for kind in kinds))  # values of --val_set
# Option of a system of docs/coming-from.md → its counterpart here.
ELSEWHERE = {
    **dict.fromkeys(
        ("dataset_dir", "dataroot", "dataset-root", "data_root", "train_data_path", "data-dir"), "--train_data_root"
    ),
    **dict.fromkeys(("train_img_list_file", "train-list"), "--train_list"),
    **dict.fromkeys(("test_img_list_file", "val-list"), "--held_out_list"),
    "valid_split": "--held_out_list, with a list of tools/make_list.py",
    "meta_file": "--train_meta",
    "rec": "--train_data_root, with --train_dataset rec",
    **dict.fromkeys(
        ("num-classes", "num_classes", "custom_num_class", "num_image"),
        "nothing to set: the identities and images of the data are counted",
    ),
    **dict.fromkeys(("arch_type", "backbone"), "--model"),
    "network": "--model, with r50 = iresnet50",
    "arch": "--model, with ir_101 = ir101",
    **dict.fromkeys(("embedding_dim", "embedding_size"), "--embed_size"),
    **dict.fromkeys(
        ("weight_file", "pre-trained", "start_from_model_statedict", "initial-checkpoint"), "--init_from"
    ),
    **dict.fromkeys(("resume", "resume_path", "resume_from_checkpoint"), "--snap_to_resume"),
    **dict.fromkeys(("metric", "head"), "--margin_type, with arcface = arc, cosface = cos and adaface = ada"),
    "margin_list": "--margin_type, with (1.0, M, 0.0) = arc --m M and (1.0, 0.0, M) = cos --m M",
    **dict.fromkeys(("fp16", "use_16bit", "amp"), "--precision, with fp16 or bf16"),
    **dict.fromkeys(("gradient_acc", "accumulate_grad_batches", "grad-accum-steps"), "--accumulate"),
    **dict.fromkeys(("batch_size", "batch-size"), "--train_batch_size"),
    **dict.fromkeys(("epoch", "epochs", "num_epoch", "num_epochs"), "--epoch_total_num"),
    **dict.fromkeys(("learning_rate", "learning-rate"), "--lr"),
    "warmup_epoch": "--warmup_epochs",
    "lr_milestones": "--lr_drops",
    "sched": "--lr_schedule",
    "opt": "--optimizer",
    "clip-grad": "--clip_norm",
    "model-ema-decay": "--ema_decay",
    "grad-checkpointing": "--activation_checkpointing",
    "torchcompile": "--compile",
    "low_res_augmentation_prob": "--lowres_prob",
    "crop_augmentation_prob": "--crop_prob",
    "photometric_augmentation_prob": "--color_prob",
    "swap_color_channel": "--color_order, with bgr",
    **dict.fromkeys(("workers", "num_workers"), "--dali_threads"),
    "lfw": "--val_data_root",
    **dict.fromkeys(("val_targets", "val_data_path"), "--val_sets"),
    "verbose": "--val_step",
    **dict.fromkeys(("frequent", "log-interval"), "--log_step"),
    "lfw_batch_size": "--val_batch_size",
    "lfw_validation_epoch_interval": "--val_step, in iterations",
    "log_file": "--log_folder",
    **dict.fromkeys(("checkpoint_dir", "output"), "--snap_folder"),
    "prefix": "--snap_prefix",
    "feature_dir": "tools/extract_features.py --out",
    "horizontal_flip": "--flipped_emb",
    **dict.fromkeys(("engine", "plugin_dir", "fr_model", "lm_model"), "--snap, for a snapshot and for an ONNX model"),
    "to-onnx": "tools/export_onnx.py",
    "compr_config": "tools/export_onnx.py --int8",
    "config": "@file.yml, without a space",
}
SET_OPTIONS = ("val_data_root", "val_list", "val_landmarks")  # location of a set
