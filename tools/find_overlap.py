#!/usr/bin/env python3
"""Find the people of a verification set who are in the training set, by their faces, not their names.

    python tools/find_overlap.py --snap t.pt --out overlap @my_data.yml --val_data_root /data/lfw
    python tools/find_overlap.py --snap other.onnx --score t.pt --out overlap @my_data.yml --val_sets /data/agedb_30.bin

A person is represented by the mean embedding of the person's images, which is compared with the mean embedding of each
identity of the training set. --snap computes the embeddings: the model to be evaluated or a better one; with a better
one, --score names the model to be evaluated. A person is listed if the similarity to an identity is above a threshold,
which only --false_share of people outside the training set exceed with any identity; --threshold sets the cosine
directly. fr/evaluation/overlap.py describes the estimation. --out gets, in a folder for each of several sets,

    overlap.csv   test identity, training identity, similarity [cosine], decision: overlap or other; each person with
                  the nearest identity, or with all above the threshold (of the 7 nearest), the most similar first
    index.html    the same people side by side, and those just below the threshold

It prints the threshold, and the scores of the set with and without the pairs of the listed people. The data options are
those of the training. Works under torchrun.
"""

if __name__ == "__main__":  # before the imports that take seconds
    from fr.errors import start

    start("tools/find_overlap.py", "tools.options.find_overlap:options")

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fr.console import counted, print_lines
from fr.data.bad_images import BadImages
from fr.data.distributed_reading import read_on_all_ranks
from fr.data.faces import LabelledFaces, VerificationFaces
from fr.data.verification_set import sets_to_score
from fr.distributed import Ranks, open_ranks
from fr.errors import run_plainly
from fr.evaluation.embedding import pair_scores
from fr.evaluation.overlap import Numbers, Overlap, Rows, find_overlap, sums_by
from fr.evaluation.pair_statistics import pair_statistics
from fr.evaluation.people import numbers_of_names
from fr.evaluation.scoring import Embedder
from fr.evaluation.verification import threshold_text, unit_rows, verify
from fr.files.durable import csv_file, write_result
from fr.files.outputs import check_outputs
from fr.options.parsing import Resolved
from fr.report.failed_pairs import aligned
from tools.dataset.overlap_page import Match, overlap_page
from tools.features.centres import Centres, class_centres, features_of
from tools.features.parts import Extractor
from tools.options.find_overlap import options as read_options

_LOOKED_AT = 20  # images of an identity; the page shows the one most similar to the person
_COMPARED = ("accuracy", "auc", "eer", "tar@far=1e-02", "tar@far=1e-03")


def main(argv: list[str]) -> int:
    resolved = read_options(argv)
    options = resolved.values
    with open_ranks(options.device) as ranks:
        check_outputs(folders=[options.out])
        searching = _opened(resolved, options.snap, ranks)
        scored = _opened(resolved, options.score, ranks) if options.score else searching
        sets = sets_to_score(vars(options), scored.model.config, str(options.score or options.snap))
        if ranks.is_main:
            print_lines(resolved.notes)
            searching.announce([one.warning for one in sets if one.warning])
        faces = read_on_all_ranks(vars(options), ranks)
        # The sets come first: they are small, and a bad image in them ends the run.
        embedded = [searching.embed(one.faces, one.name) for one in sets]
        to_score = [scored.embed(one.faces, one.name) for one in sets] if options.score else embedded
        bad = BadImages(options.max_bad_images)
        contract = searching.model.preprocessing
        extractor = Extractor(searching.network, faces, contract, searching.dali, searching.batch)
        centres = class_centres(extractor, faces, ranks, bad)
        for pair_set, rows, own in zip(sets, embedded, to_score, strict=True):
            people = _People.of(pair_set.faces, rows)
            overlap = find_overlap(people.sums, centres.sums, options.false_share, options.threshold or None)
            images = _shown_images(overlap, people, rows, extractor, faces, options.thumbnails, ranks, bad)
            if not ranks.is_main:
                continue
            counts = f"{counted(len(faces), 'image')} of {counted(len(faces.identities), 'identity')}"
            about = {
                "model": str(options.snap),
                "verification set": f"{pair_set.describe()}, {counted(len(people.names), 'person', 'people')}",
                "training data": counts + (f", {bad.count:,} unusable" if bad.count else ""),
                **_facts(overlap, centres),
                **_scores(pair_set.faces, people, overlap, pair_scores(pair_set.faces, own), options.bootstrap),
            }
            out = Path(options.out, pair_set.name if len(sets) > 1 else "")
            matches = _matches(overlap, people, images, pair_set.faces, extractor)
            write_result(out / "overlap.csv", _table(overlap, people.names, faces.identities))
            write_result(out / "index.html", overlap_page(matches, about))
            print_lines(f"{name}: {value}" for name, value in about.items())
            print(f"wrote {out / 'overlap.csv'}, {out / 'index.html'}")
    return 0


def _opened(resolved: Resolved, snap: Path, ranks: Ranks) -> Embedder:
    """Open --snap or --score; preprocessing options apply only if the file stores none."""
    options = Namespace(**vars(resolved.values) | {"snap": snap, "flip_mode": "sum", "dist": "cos"})
    return Embedder.open(replace(resolved, values=options), ranks, overriding=snap == resolved.values.snap)


@dataclass(frozen=True)
class _People:
    """People of a set. pairs [P, 2], image [N]: numbers of people; names [T]; sums [T, E] of their unit embeddings."""

    pairs: Numbers
    image: Numbers
    names: list[str]
    sums: Rows

    @classmethod
    def of(cls, faces: VerificationFaces, rows: NDArray[np.float32]) -> "_People":
        """Group the images by person. A person is named by the folder of the first image, or else by that image."""
        number = numbers_of_names(faces.names, faces.pairs, faces.same)
        _, first, image = np.unique(number, return_index=True, return_inverse=True)
        names = [faces.names[row].as_py() for row in first.tolist()]
        folders = [name.rpartition("/")[0] for name in names]
        shared = Counter(folders)
        own = [folder != "" and shared[folder] == 1 for folder in folders]
        named = [folder if alone else name for alone, folder, name in zip(own, folders, names, strict=True)]
        return cls(image[faces.pairs], image, named, sums_by(rows, image, len(names)))


def _facts(overlap: Overlap, centres: Centres) -> dict[str, str]:
    """Threshold, its meaning, and number of listed people, for the output."""
    people, listed = int(overlap.person.max()) + 1, len(np.unique(overlap.person[overlap.listed]))
    share, held_out = overlap.false_share, centres.held_out()
    facts = {
        "threshold": f"cosine {threshold_text(overlap.threshold)}, exceeded by {share:.2g} of the people who aren't "
        f"in the training set (FMR {overlap.fmr:.1e})",
        "listed": f"{listed:,} of {counted(people, 'person', 'people')}, "
        f"{share * (people - listed):.1f} of them expected by chance",
    }
    if len(held_out):
        found = f"{(held_out > overlap.threshold).mean():.4f} of {len(held_out):,}"
        facts["training images above the threshold"] = f"{found}, one of each identity, without it in the centre"
    return facts


def _scores(
    faces: VerificationFaces, people: _People, overlap: Overlap, scores: Rows, bootstrap: int
) -> dict[str, str]:
    """Metrics of the set with and without the pairs of the listed people."""
    stays = ~np.isin(people.pairs, overlap.person[overlap.listed]).any(axis=1)
    facts = {}
    for name, some in (("all pairs", np.ones_like(stays)), ("without the people listed", stays)):
        same, fold = faces.same[some], faces.fold[some]
        if len(np.unique(fold)) < 2 or same.all() or not same.any():
            facts[name] = f"{counted(len(same), 'pair')} left, too few to be scored"
            continue
        verification = verify(scores[some], same, fold)
        metrics = pair_statistics(scores[some], same, verification, people.pairs[some], bootstrap)
        shown = [f"{metric.title} {metric.text()}" for key in _COMPARED if (metric := metrics[key]).value is not None]
        facts[name] = "; ".join([counted(len(same), "pair"), *shown])
    return facts


def _table(overlap: Overlap, names: list[str], identities: list[str]) -> bytes:
    rows = [["test_identity", "training_identity", "similarity", "decision"]]
    columns = (overlap.person, overlap.label, overlap.similarity, overlap.listed)
    for person, label, similarity, listed in zip(*(column.tolist() for column in columns), strict=True):
        decision = "overlap" if listed else "other"
        rows.append([names[person], identities[label], f"{similarity:.4f}", decision])
    return csv_file(rows)


Shown = dict[int, tuple[int, int]]  # match of the overlap → row of the set, row of the training set


def _shown_images(
    overlap: Overlap,
    people: _People,
    rows: NDArray[np.float32],
    extractor: Extractor,
    faces: LabelledFaces,
    most: int,
    ranks: Ranks,
    bad: BadImages,
) -> Shown:
    """Images to show of the first `most` listed and other matches: those most similar to the mean of the match."""
    chosen = np.concatenate([np.flatnonzero(overlap.listed == listed)[:most] for listed in (True, False)]).tolist()
    of_label = {label: np.flatnonzero(faces.labels == label)[:_LOOKED_AT] for label in overlap.label[chosen].tolist()}
    some = features_of(extractor, np.concatenate([np.zeros(0, np.int64), *of_label.values()]), ranks, bad)
    shown = {}
    for match in chosen:
        person, usable = overlap.person[match], np.isin(some.rows, of_label[int(overlap.label[match])])
        theirs, own = np.flatnonzero(people.image == person), some.rows[usable]
        if len(own):
            nearest = int(own[_most_like(some.values[usable], people.sums[person])])
            of_person = _most_like(rows[theirs], some.values[usable].mean(axis=0))
            shown[match] = (int(theirs[of_person]), nearest)
    return shown


def _most_like(rows: NDArray[np.float32], mean: Rows | NDArray[np.float32]) -> int:
    return int((unit_rows(rows.astype(np.float64)) @ mean).argmax())


def _matches(
    overlap: Overlap, people: _People, shown: Shown, faces: VerificationFaces, extractor: Extractor
) -> Iterator[Match]:
    rows = np.array(list(shown.values()), dtype=np.int64).reshape(-1, 2).T
    sides = [
        aligned(some, own, extractor.preprocessing, extractor.dali)
        for some, own in zip((faces, extractor.faces), rows, strict=True)
    ]
    for (match, (_, row)), left, right in zip(shown.items(), *sides, strict=True):
        names = people.names[overlap.person[match]], extractor.faces.names[row].as_py()
        yield Match(names, (left, right), float(overlap.similarity[match]), bool(overlap.listed[match]))


if __name__ == "__main__":
    run_plainly("tools/find_overlap.py", main)
