#!/usr/bin/env python3
"""Export a snapshot to one ONNX file that includes its preprocessing as metadata.

    python tools/export_onnx.py snapshots/t_1000.pt t.onnx
    python tools/export_onnx.py snapshots/t_1000.pt t.onnx --with_preprocessing --l2_norm   # RGB 0-255 → norm 1
    python tools/export_onnx.py snapshots/t_1000.pt t.onnx --int8 256 --program t.pt2
    python evaluate_lfw.py --snap t.onnx --val_data_root /data/lfw

Input `images` [batch, 3, height, width] float32, output `embeddings` [batch, E] float32, any batch. Metadata keys, both
JSON: face_recognition.preprocessing, which the caller must apply, and face_recognition.model, facts about the network.

Each file is compared with PyTorch before it gets its final name: the largest change of the cosine of two images if one
of them is embedded by the file, and the largest change of an embedding's norm, must be at most 1e-4. The 8-bit file,
which can't be that close, is scored on the verification set instead.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/export_onnx.py", "tools.options.export_onnx:options")

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fr.checkpoint.snapshot import SnapshotContents
from fr.console import counted
from fr.data.faces import Faces, VerificationFaces
from fr.data.formats import read_training_faces
from fr.data.pipeline import DaliSettings, dali_settings, plain_stream
from fr.data.verification_set import sets_to_score
from fr.distributed import Ranks, open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.embedding import Network, embed_sets, pair_scores, with_mirror_image
from fr.evaluation.scored_model import exported_facts, load_backbone, read_backbone
from fr.evaluation.verification import verify
from fr.files.model_metadata import as_strings
from fr.files.outputs import check_outputs
from fr.onnx.export import (
    Deployed,
    difference,
    embeddings_of,
    export_program,
    normalised,
    quantise,
    random_pixels,
    raw_pixels,
    to_onnx,
)
from fr.onnx.model import OnnxModel
from fr.options.commands import next_command
from fr.options.names import SET_OPTIONS
from fr.preprocessing import Preprocessing
from tools.options.export_onnx import options as read_options

LIMIT = 1e-4  # float32 networks differ by about 1e-6
CHECKED = 64  # images: 4,096 cosines, a few seconds
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reference:
    """PyTorch's embeddings [N, E], and the inputs [N, 3, H, W] of an exported file for the same images."""

    embeddings: torch.Tensor
    inputs: torch.Tensor
    what: str

    def check(self, network: Network, path: Path) -> None:
        """Print the difference from PyTorch; InputError beyond LIMIT."""
        result = difference(self.embeddings, embeddings_of(network, self.inputs))
        print(f"{path}: {result}; {len(self.inputs)} {self.what}, against PyTorch", flush=True)
        if not result.within(LIMIT):
            raise InputError(f"{path}: differs from PyTorch by more than {LIMIT:g}; nothing was written")


def main(argv: list[str]) -> int:
    arguments = read_options(argv)
    check_outputs([arguments.out, arguments.program])
    contents, contract = read_backbone(arguments.snap)
    with open_ranks("cpu") as ranks, ExitStack() as files:
        backbone = load_backbone(arguments.snap, contents, contract.input_size, arguments.averaged)
        faces = _verification_faces(arguments, contents.config)
        dali = dali_settings("cpu", 0, ranks)
        preprocessing = raw_pixels(contract) if arguments.with_preprocessing else contract
        reference = _reference(backbone, arguments.l2_norm, contract, preprocessing, faces, dali)

        inside = contract if arguments.with_preprocessing else None
        program = export_program(Deployed(backbone, inside, arguments.l2_norm), contract.input_size)
        metadata = _metadata(contents, preprocessing, arguments)
        if arguments.l2_norm and contents.config.get("flipped_emb"):
            print(
                "--l2_norm: the training validated sums of raw embeddings and their mirror images'; that threshold and "
                f"those scores are left out. evaluate_lfw.py --snap {arguments.out} measures the file's",
                flush=True,
            )
        exported = files.enter_context(_replacing(arguments.out))
        exported.write_bytes(to_onnx(program, metadata))
        reference.check(OnnxModel(exported, _CPU), arguments.out)
        if arguments.program:
            saved = files.enter_context(_replacing(arguments.program))
            torch.export.save(program, saved, extra_files=metadata)
            reference.check(torch.export.load(saved).module(), arguments.program)
        if faces and arguments.int8:
            small = files.enter_context(_replacing(arguments.out.with_suffix(".int8.onnx")))
            chosen = _calibration_faces(contents.config, faces)
            inputs = normalised(_pixels(chosen, arguments.int8, contract, dali), preprocessing)
            print(f"8 bits: scaled to {counted(len(inputs), 'face')} of {chosen.root}", flush=True)
            # The stored score distributions belong to the weights before quantisation.
            quantise(exported, small, inputs, _metadata(replace(contents, scores=[]), preprocessing, arguments))
            flipped = bool(contents.config.get("flipped_emb"))
            _print_loss(OnnxModel(exported, _CPU), OnnxModel(small, _CPU), faces, preprocessing, dali, ranks, flipped)
    print(next_command("evaluate_lfw.py", snap=str(arguments.out), val_data_root="LFW"))
    return 0


def _metadata(
    contents: SnapshotContents, preprocessing: Preprocessing, arguments: argparse.Namespace
) -> dict[str, str]:
    """Metadata of the files."""
    facts = exported_facts(arguments.snap, contents, arguments.averaged)
    facts |= {name: getattr(arguments, name) for name in ("with_preprocessing", "l2_norm")}
    if arguments.l2_norm:
        # Sums of raw embeddings and their mirror images' weigh them by their norms, which unit vectors have lost.
        facts["scores"] = [one for one in facts["scores"] if not one["flip"]]
        if facts["flipped_emb"]:
            facts.pop("threshold", None)
    return as_strings(preprocessing, facts)


def _verification_faces(arguments: argparse.Namespace, config: dict[str, Any]) -> VerificationFaces | None:
    """Verification set to check with; None if there is none, InputError if it was requested or is needed."""
    values = vars(arguments)
    try:
        return sets_to_score(values, config, str(arguments.snap))[0].faces
    except InputError as error:
        if any(values[name] for name in SET_OPTIONS) or arguments.int8:
            raise
        print(f"no faces to check with ({error}): using pseudo-random images", flush=True)
        return None


def _reference(
    backbone: torch.nn.Module,
    l2_norm: bool,
    contract: Preprocessing,
    preprocessing: Preprocessing,
    faces: Faces | None,
    dali: DaliSettings,
) -> Reference:
    """PyTorch's embeddings of the images to check with, normalised outside the network."""
    pixels = _pixels(faces, CHECKED, contract, dali) if faces else random_pixels(CHECKED, contract.input_size)
    embeddings = embeddings_of(Deployed(backbone, None, l2_norm), normalised(pixels, contract))
    return Reference(embeddings, normalised(pixels, preprocessing), "faces" if faces else "pseudo-random images")


def _calibration_faces(config: dict[str, Any], otherwise: Faces) -> Faces:
    """Training images if available, so that no scored face takes part in calibration; else `otherwise`."""
    try:
        return read_training_faces(config)
    except InputError as error:
        print(f"no training images available ({error}): using those of the verification set", flush=True)
        return otherwise


def _pixels(faces: Faces, count: int, contract: Preprocessing, dali: DaliSettings) -> torch.Tensor:
    """Aligned faces, evenly spaced over the whole set: [N, 3, H, W] RGB from 0 to 255."""
    stream = plain_stream(faces, faces.spaced_rows(count), 16, raw_pixels(contract), dali)
    return torch.cat([batch.clone() for batch in stream])


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Temporary file that replaces `path` on success."""
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
        print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it would hide the reason
            temporary.unlink()


def _print_loss(
    full: OnnxModel,
    small: OnnxModel,
    faces: VerificationFaces,
    preprocessing: Preprocessing,
    dali: DaliSettings,
    ranks: Ranks,
    flipped: bool,
) -> None:
    """Print accuracy and AUC of the float32 and the 8-bit file on the verification set."""
    networks = [with_mirror_image(network, "sum" if flipped else "") for network in (full, small)]
    embedded = embed_sets(networks, [faces], preprocessing, dali, ranks, 16)
    results = [verify(pair_scores(faces, rows), faces.same, faces.fold) for (rows,) in embedded]
    rows = [(name, result.accuracy, result.auc) for name, result in zip(("float32", "int8"), results, strict=True)]
    rows.append(("loss", rows[0][1] - rows[1][1], rows[0][2] - rows[1][2]))
    print(f"{counted(len(faces.pairs), 'pair')} of {faces.root}\n{'':8}{'accuracy':>10}{'AUC':>10}")
    print("\n".join(f"{name:8}{accuracy:10.4f}{auc:10.4f}" for name, accuracy, auc in rows), flush=True)


if __name__ == "__main__":
    run_plainly("tools/export_onnx.py", main)
