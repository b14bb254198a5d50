"""Options of train.py and evaluate_lfw.py for a folder in the layout of the sample data; needs no pytest."""

from pathlib import Path


def data_options(data: Path) -> list[str]:
    """train.py's options for a folder in the layout of the sample data."""
    return [
        *("--train_data_root", f"{data}/vggface2/train"),
        *("--train_list", f"{data}/vggface2/meta/train_list.txt"),
        *("--train_landmarks", f"{data}/vggface2/bb_landmark"),
    ]


def validation_options(data: Path) -> list[str]:
    """Options of the verification set beside the training data."""
    return [
        *("--val_data_root", f"{data}/lfw/lfw"),
        *("--val_list", f"{data}/lfw/pairs.txt"),
        *("--val_landmarks", f"{data}/lfw/lfw_landmark.txt"),
    ]
