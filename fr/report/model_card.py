"""Model card: README.md of a folder for Hugging Face's Hub, https://huggingface.co/docs/hub/model-cards."""

from collections.abc import Mapping
from typing import Any

import yaml

from fr.alignment import CENTER_CROP, template_points
from fr.evaluation.verification import threshold_text
from fr.preprocessing import Preprocessing

CARD = "README.md"
_DATA = """## Training data

Not known to the program that wrote this card: say here what data the network was trained on, and their terms, which may
restrict the use of the weights."""
_HUB_METRICS = {"accuracy": "accuracy", "auc": "roc_auc"}  # our names → the Hub's


def model_card(
    name: str, contract: Preprocessing, facts: Mapping[str, Any], metrics: Mapping[str, Any], license_name: str
) -> str:
    """Markdown with a YAML front matter.

    facts: from `exported_facts`. metrics: accuracy and auc of the first verification set, None if unknown.
    license_name: the Hub's name of the license; "" = none.
    """
    scored = next((one["set"] for one in facts["scores"]), "verification set")
    known = {key: round(value, 4) for key, value in metrics.items() if isinstance(value, float)}
    front: dict[str, Any] = {
        "license": license_name or "other",
        "library_name": "pytorch",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["face-recognition", "face-verification", facts["model"]],
    }
    if known:
        front["metrics"] = [_HUB_METRICS[key] for key in known]
        result = {
            "task": {"type": "face-verification", "name": "Face verification"},
            "dataset": {"type": scored, "name": scored},
            "metrics": [{"type": _HUB_METRICS[key], "value": value} for key, value in known.items()],
        }
        front["model-index"] = [{"name": name, "results": [result]}]
    parts = [_summary(name, facts), _input(contract), _use(facts)]
    if known:
        parts.append(_table("Results", {f"{key} on {scored}": str(value) for key, value in known.items()}))
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n" + "\n\n".join([*parts, _DATA]) + "\n"


def _summary(name: str, facts: Mapping[str, Any]) -> str:
    size = facts["embed_size"]
    text = f"# {name}\n\n`{facts['model']}` maps an image of a face to an embedding of {size} numbers."
    if "threshold" not in facts:
        return text
    mirrored = ", each the sum of those of the image and its mirror image" if facts["flipped_emb"] else ""
    return (
        f"{text} Two images are taken for the same person if the cosine distance (1 − cosine) of their embeddings"
        f"{mirrored} is below {threshold_text(facts['threshold'])}."
    )


def _input(contract: Preprocessing) -> str:
    height, width = contract.input_size
    order = contract.color_order.upper()
    if contract.alignment == CENTER_CROP:
        how = f"none: the image with a shorter side of {contract.resized} pixels, of which the centre is taken"
    else:
        points = ", ".join(f"({x:.2f}, {y:.2f})" for x, y in template_points(contract.template, contract.input_size))
        how = f"similarity transform ({contract.alignment}) of eyes, nose and mouth corners to {points}"
    rows = {
        "size": f"{width} × {height} pixels (width × height)",
        "channels": f"{order}, (pixel / 255 − mean) / std",
        "mean": f"{', '.join(f'{value:g}' for value in contract.mean)} ({order})",
        "std": f"{', '.join(f'{value:g}' for value in contract.std)} ({order})",
        "alignment": how,
    }
    return _table("Input", rows)


def _use(facts: Mapping[str, Any]) -> str:
    network = f"--model {facts['model']} --embed_size {facts['embed_size']}"
    if settings := facts.get("model_kwargs"):
        network += f" --model_kwargs {' '.join(f'{key}={value}' for key, value in settings.items())}"
    return f"""## Use

With face-recognition-trainer, which wrote this folder, here FOLDER:

    python evaluate_lfw.py --snap FOLDER --val_data_root LFW
    python tools/identify.py --snap FOLDER --gallery PEOPLE --input IMAGES
    python train.py @my_config.yml --init_from FOLDER {network}

The weights alone, in PyTorch; the metadata of the file and config.json say the rest:

    from safetensors.torch import load_file
    state_dict = load_file("model.safetensors")"""


def _table(heading: str, rows: Mapping[str, str]) -> str:
    return f"## {heading}\n\n{markdown_table(rows)}"


def markdown_table(rows: Mapping[str, str]) -> str:
    """Table of names and values without a header."""
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
