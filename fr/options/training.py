"""Options that only train.py has, one function per group.

To add an option, add its line here; an option that other commands share goes into `fr/options/definitions.py`. No
default = required.
"""


from fr.files.names import model_file
from fr.options.fields import Add
from fr.options.names import MODEL_NAMES, OPTIMIZERS, SCHEDULES
from fr.options.types import (
    BELOW_1,
    COUNT,
    COUNT_OR_0,
    FLAG,
    KEYWORD,
    NOT_NEGATIVE,
    POSITIVE,
    PREFIX,
    SCALED,
    SEED,
    TEXT,
    WRITABLE_STORE,
    model_name,
)


def order(add: Add) -> None:
    held_out = "list as --train_list of images that aren't trained on, for top-1 and top-5 accuracy; empty = none"
    add("--held_out_list", default="", help=held_out)
    add("--weighted", **FLAG, help="draw identities equally often; false = each image once an epoch")
    together = "two-level shuffle: images of this many at a time [tar files or row groups]; 0 = whole data"
    add("--shuffle_window", COUNT_OR_0, 0, together)
    balanced = "identity-balanced (PK) batches with this many of each [images]; 0 = off"
    add("--images_per_identity", COUNT_OR_0, 0, balanced)


def model(add: Add) -> None:
    names = "|".join((*MODEL_NAMES, "timm/NAME"))
    add("--model", type=model_name(MODEL_NAMES), default="mobilenet", metavar=names, help="backbone")
    add("--embed_size", COUNT, 256, "length of the embedding [numbers]")
    add_model_kwargs(add)


def add_model_kwargs(add: Add) -> None:
    """--model_kwargs, for every command that builds a network by its name."""
    settings = "settings of the network, as for timm's create_model [KEY=VALUE]; no value = its defaults"
    add("--model_kwargs", type=KEYWORD, nargs="*", default=[], help=settings)


def initial_weights(add: Add) -> None:
    help_init = "initial weights: a snapshot, another system's file, or a Hub folder; empty = none"
    add("--init_from", type=model_file, default="", help=help_init)
    add("--partial", **FLAG, help="load the weights of --init_from that fit, list the others; false = all must fit")
    names = "file with the class names of --init_from's head, one a line; empty = its own"
    add("--init_identities", default="", help=names)
    add("--pretrained", **FLAG, help="start from weights of torchvision (resnet34, 50, 101) or timm; false = off")


def optimiser(add: Add) -> None:
    averages = "Adam's decay rates for gradient and squared gradient [two fractions]"
    add("--optimizer", default="sgd", choices=OPTIMIZERS, help="adamw: Adam with decoupled weight decay")
    add("--lr", POSITIVE, 0.4, "learning rate [per step]")
    add("--momentum", BELOW_1, 0.9, "momentum of sgd [fraction]; 0 = none")
    add("--betas", type=BELOW_1, nargs="*", default=[0.9, 0.999], help=averages)
    add("--eps", POSITIVE, 1e-8, "added to the denominator of Adam [number]")
    add("--weight_decay", NOT_NEGATIVE, 1e-4, "L2 penalty; adamw: decoupled decay [factor]; 0 = off")
    every = "weight decay also of biases, norms, slopes and positions; false = only of matrices and kernels"
    add("--decay_norm_and_bias", **FLAG | {"default": True}, help=every)
    shapes = "after the warm-up; step: --lr_drops; poly, cosine: from --lr to --lr_end at the end of the training"
    add("--lr_schedule", default="step", choices=SCHEDULES, help=shapes)
    times = "step: multiply the learning rate by 0.1 after each of these [epochs]; no value = never"
    add("--lr_drops", type=COUNT, nargs="*", default=[3, 6, 9, 13], help=times)
    add("--lr_end", NOT_NEGATIVE, 0.0, "poly, cosine: learning rate at the end [per step]")
    add("--lr_power", POSITIVE, 2.0, "poly: exponent [number]")
    add("--warmup_iterations", COUNT_OR_0, 0, "linear warm-up [iterations]; 0 = off")
    add("--warmup_epochs", NOT_NEGATIVE, 0.0, "linear warm-up, in place of --warmup_iterations [epochs]; 0 = off")
    add("--clip_norm", NOT_NEGATIVE, 0.0, "largest norm of the gradient [L2]; 0 = off")
    names = "backbone.<name> or head.weight, * = any text"
    add("--freeze", nargs="*", default=[], help=f"frozen weights [patterns of {names}]; no value = none")
    factors = "factor on --lr for some weights [pattern=factor]; no value = 1"
    add("--lr_scale", type=SCALED, nargs="*", default=[], help=factors)
    add("--ema_decay", BELOW_1, 0.0, "exponential moving average of the weights [fraction kept a step]; 0 = off")


def loop(add: Add) -> None:
    add("--train_batch_size", COUNT, 170, "samples per step over all ranks [images]")
    add("--accumulate", COUNT, 1, "micro-batches of a rank per step [count]; 1 = off")
    add("--epoch_total_num", COUNT, 30, "length of the training [epochs]")
    add("--max_iterations", COUNT_OR_0, 0, "stop after this many [iterations]; 0 = off")
    add("--max_bad_steps", COUNT_OR_0, 10, "end the run after so many skipped steps in a row [steps]; 0 = never")
    add("--max_bad_images", COUNT_OR_0, 100, "end the run at more bad images than this [files]; 0 = at the first")
    add("--freeze_bn", **FLAG, help="batch norms use their running statistics; false = off")
    products = "of matrix products; fp32: IEEE; auto: bf16 if native, else fp16 on a GPU that supports it, else fp32"
    add("--precision", default="fp32", choices=("auto", "fp32", "tf32", "bf16", "fp16"), help=products)
    add("--channels_last", **FLAG, help="channels-last memory format; false = off")
    add("--sync_bn", **FLAG, help="batch norm statistics over all ranks; false = per rank")
    add("--activation_checkpointing", **FLAG, help="recompute blocks in backward to save memory; false = off")
    add("--compile", **FLAG, help="torch.compile the backbone; false = off")
    add("--deterministic", **FLAG, help="use only deterministic operations, or raise an error; false = off")
    add("--spike_factor", NOT_NEGATIVE, 0.0, "log a loss above this multiple of the median [factor]; 0 = off")
    add("--spike_return", **FLAG, help="after a spike, reload the newest snapshot's weights; false = only log")
    add("--hang_timeout", NOT_NEGATIVE, 1200.0, "end the run if a rank makes no progress for this long [s]; 0 = never")
    add("--seed", SEED, 0, "seed of weights, order and augmentation [whole number]")


def snapshots(add: Add) -> None:
    add("--val_step", COUNT_OR_0, 1000, "interval of validations and snapshots [iterations]; 0 = an epoch")
    add("--snap_folder", TEXT, "./snapshots/", "folder of the snapshots")
    add("--snap_prefix", PREFIX, "FaceReidNet", "prefix of the names <snap_prefix>_<iteration>.pt")
    add("--snap_to_resume", default="", help="snapshot to resume from; auto = newest complete one, empty = none")
    add("--overwrite", **FLAG, help="remove another run's files under --snap_prefix; false = refuse to start")
    add("--async_snapshots", **FLAG, help="write snapshots in the background, from a copy; false = wait")
    add("--keep_snapshots", COUNT_OR_0, 0, "keep so many of the newest, and the best one [count]; 0 = all")
    add("--keep_every", COUNT_OR_0, 0, "also keep snapshots at multiples of this [iterations]; 0 = off")
    mirror = "store or folder for copies, from which auto resumes if there are no local ones [URL]; empty = none"
    add("--snap_mirror", WRITABLE_STORE, "", mirror)
    add("--card", **FLAG | {"default": True}, help="write <snap_prefix>.card.md, a summary of the run; false = off")
    add("--log_folder", default="", help="folder of TensorBoard files and log.jsonl; empty = logs/<snap_prefix>")
    add("--log_step", COUNT, 10, "interval of log lines [iterations]")
