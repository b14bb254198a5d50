"""Training data on all ranks: read once per host, and checked to be the same on all hosts."""

import uuid
from collections.abc import Mapping
from typing import Any

from fr.data.faces import LabelledFaces
from fr.data.formats import read_cached
from fr.distributed import Ranks, gather_objects, patient_group, raise_together
from fr.errors import InputError


def read_on_all_ranks(options: Mapping[str, Any], ranks: Ranks) -> LabelledFaces:
    """Read the training faces on all ranks: the first rank of a host reads, the others map its cache entry.

    All ranks raise InputError if one can't read the data, or if the data differ between ranks.
    """
    run = gather_objects(uuid.uuid4().hex)[0] if ranks.world_size > 1 else ""
    faces, failure = None, None
    with patient_group() as group:  # tens of millions of images may take an hour
        for keeps in (True, False):
            if (ranks.local_rank == 0) == keeps:
                try:
                    faces = read_cached(options, run, keeps)
                except InputError as error:
                    failure = error
            raise_together(failure, "another rank can't read the training data, and prints the reason", group)
    assert faces is not None
    fingerprints = gather_objects(faces.fingerprint())
    unlike = [rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]
    if unlike:
        raise InputError(
            f"--train_data_root {faces.root}: ranks {', '.join(map(str, unlike))} read other data than rank 0; "
            "check that the files are the same on all hosts, and don't change"
        )
    return faces
