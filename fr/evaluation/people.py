"""Identities of the images in a list of pairs, which seldom gives them explicitly.

Letters: N images, P pairs.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def people_of_names(names: pa.StringArray, pairs: NDArray[np.int64], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Numbers of the two identities in each pair, [P, 2], from `numbers_of_names`."""
    return numbers_of_names(names, pairs, same)[pairs]


def numbers_of_names(names: pa.StringArray, pairs: NDArray[np.int64], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of each identity, [N]. names: [N], of images or of people. pairs: [P, 2] rows. same: [P].

    Images share an identity if they form a same pair or lie in one folder; folders are ignored if any different pair
    lies within one. An image connected to no other is an identity of its own.
    """
    folders = pc.replace_substring_regex(names, r"(^|/)[^/]*$", "").dictionary_encode()
    folder = folders.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    if "" in folders.dictionary.to_pylist() or np.equal(*folder[pairs[~same]].T).any():
        folder = np.arange(len(names))
    first, second = folder[pairs[same]].T
    count = int(folder.max()) + 1
    links = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(count, count))
    _, person = connected_components(links, directed=False)
    numbers: NDArray[np.int64] = person.astype(np.int64)[folder]
    return numbers
