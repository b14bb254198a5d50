#!/usr/bin/env python3
"""Identify people in images, videos or a camera stream with a gallery of known people.

    python tools/identify.py --snap t.pt --gallery people --input party.jpg --out seen
    python tools/identify.py --snap t.onnx --gallery people --input holiday/ --out seen
    python tools/identify.py --snap t.onnx --gallery people --input lobby.mp4 --out seen --threshold 0.6
    python tools/identify.py --snap t.onnx --gallery people --input 0 --show
    python tools/identify.py --snap t.onnx --gallery people --evaluate probes --json figures.json --out seen

In the gallery `Name.jpg` is an image of Name, and so is each file in the folder `Name/`; a person's score is that of
the most similar image. A face is named if its distance (1 - cosine) to the nearest person is below the threshold, else
it is unknown. The default threshold, from the model's validation, is the best one for pairs of faces. In a large
gallery it accepts more unknown people, since each is compared with everybody in it. tools/choose_threshold.py finds the
threshold for a given share of unknown people who are accepted, and --threshold takes its file.

OUT gets faces.jsonl (boxes, names and distances; one line per image or frame) and the annotated images under their
names, or an annotated video. Boxes are in pixels of the image as a viewer shows it. Ctrl-C stops; results so far are
kept. --evaluate searches the images of a folder with the gallery's layout, one face each: rank-1 and rank-5, TPIR at
FPIRs of 1e-1 to 1e-3 (fr/recognition/identification.py), and OUT/cmc.png; people not in the gallery are unknown people.

Further options: those of evaluate_lfw.py for model, preprocessing and device. To install the detector:
bash init_venv.sh --with detect
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/identify.py", "tools.options.identify:options")

from pathlib import Path

from fr.console import caught_signals, counted, print_lines, warn
from fr.data.faces import shown
from fr.distributed import open_ranks
from fr.errors import InputError, run_plainly
from fr.evaluation.all_pairs import Rows
from fr.evaluation.scoring import Embedder
from fr.files.durable import write_json
from fr.files.outputs import check_outputs
from fr.progress import progress
from fr.recognition.detection import Detector, Mtcnn
from fr.recognition.gallery import Gallery, new_gallery
from fr.recognition.identification import Searches
from fr.recognition.recognizer import Recognizer
from tools.identifying.drawing import undrawable
from tools.identifying.portraits import Looking, Portraits, embedded, refuse_center_crops
from tools.identifying.results import JOURNAL, Seen, Sink, open_sinks
from tools.identifying.scores import cmc_of, lines, metrics_of, search_probes, write_cmc
from tools.identifying.sources import Source, open_source
from tools.identifying.thresholds import Threshold, embeddings_of, read_threshold
from tools.options.detect_faces import settings_of
from tools.options.identify import options as read_options


def main(argv: list[str]) -> int:
    arguments, resolved = read_options(argv)
    options = resolved.values
    source = open_source(arguments.input, options.allow_outside) if arguments.input else None
    with open_ranks(options.device) as ranks:
        if ranks.world_size > 1:
            raise InputError("runs in one process only: start it without torchrun")
        if source is None:
            check_outputs([options.json], [arguments.out])
        embedder = Embedder.open(resolved, ranks)
        model = embedder.model
        if source:
            refuse_center_crops(embedder)
        print_lines(model.overrides)
        threshold = _threshold(arguments.threshold, embedder)
        settings = settings_of(arguments)
        looking = None if arguments.aligned else Looking(settings, str(ranks.device), arguments.face)
        if source is None:
            gallery = _gallery(*embedded("--gallery", arguments.gallery, looking, embedder), threshold)
            probes, rows = embedded("--evaluate", arguments.evaluate, looking, embedder)
            at = threshold.distance if threshold else None
            return _evaluate(search_probes(gallery, probes, rows), gallery, at, arguments.out, options.json)
        if threshold is None:
            raise InputError(
                f"{options.snap} stores no threshold: give --threshold, such as a file of tools/choose_threshold.py, "
                'or the "Estimated threshold" of evaluate_lfw.py'
            )
        sinks = open_sinks(source, arguments.out, arguments.show)
        detector = Mtcnn(settings, ranks.device)
        gallery = _gallery(*embedded("--gallery", arguments.gallery, looking, embedder), threshold)
        if arguments.out or arguments.show:
            print_lines(shown(undrawable(gallery.people)))
        recognizer = Recognizer(embedder.network, model.preprocessing, embedder.dali, ranks.device, embedder.batch)
        status = _identify(source, detector, recognizer, gallery, threshold.distance, sinks)
        if arguments.out:
            print(f"wrote {arguments.out / JOURNAL} and the annotated {'video' if source.rate else 'images'} beside it")
        return status


def _threshold(said: float | str | None, embedder: Embedder) -> Threshold | None:
    """The threshold given as a number or a file, or else the model's; None if there is none."""
    if isinstance(said, str):
        return read_threshold(Path(said), embeddings_of(embedder))
    distance = embedder.model.threshold if said is None else said
    return None if distance is None else Threshold(distance)


def _gallery(portraits: Portraits, embeddings: Rows, threshold: Threshold | None) -> Gallery:
    """Build the gallery of all people, also those without a usable image; prints a warning about the threshold."""
    gallery = new_gallery(sorted(set(portraits.people)), portraits.people_of_faces, embeddings)
    missing = sorted(set(portraits.people) - set(portraits.people_of_faces))
    print_lines(shown([f"{name}: no usable image" for name in missing]))
    people = counted(len(gallery.people), "person", "people")
    print(f"gallery: {people}, {counted(len(gallery.rows), 'image')}", flush=True)
    if threshold and (warning := threshold.warning(len(gallery.people))):
        warn(warning)
    return gallery


def _identify(
    source: Source, detector: Detector, recognizer: Recognizer, gallery: Gallery, threshold: float, sinks: list[Sink]
) -> int:
    """Exit status: 0, or 128 + the signal that ended it."""
    status, complete, shots = 0, False, 0
    with caught_signals() as received, progress(source.total, "img", "identifying") as bar:
        try:
            for shot in source.shots:
                detected = detector(shot.pixels)
                (rows,) = recognizer([shot.pixels], [detected])
                person, cosines = gallery.best(rows)
                distances = 1 - cosines.astype(float)
                nearest = [gallery.people[row] for row in person]
                seen = Seen(shot, detected.boxes, nearest, distances, distances < threshold)
                shots += 1
                wanted = [sink.take(seen) for sink in sinks]
                bar.update()
                if received.number:
                    status = 128 + received.number
                    break
                if not all(wanted):
                    break
            complete = True
        finally:
            for sink in sinks:
                sink.close(complete)
    if not shots:
        raise InputError(*shown(source.bad or [f"--input {source.root}: not one frame of it can be decoded"]))
    print_lines(shown(source.bad))
    return status


def _evaluate(searches: Searches, gallery: Gallery, threshold: float | None, out: Path | None, json_file: str) -> int:
    figures, curve = metrics_of(searches, threshold), cmc_of(searches, gallery)
    print("\n".join(lines(figures)))
    if out and curve:
        write_cmc(out / "cmc.png", curve)
        print(f"wrote {out / 'cmc.png'}")
    if json_file:
        write_json(Path(json_file), {**figures, "cmc": curve})
    return 0


if __name__ == "__main__":
    run_plainly("tools/identify.py", main)
