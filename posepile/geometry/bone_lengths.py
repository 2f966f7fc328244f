"""What lengths a bone may have."""

import numpy as np

# A bone is implausible where both hold: a length out of this range of its mean, and off by more than so many mm (WACV 2023).
LENGTH_RATIO = (0.1, 3.0)
MAX_DIFFERENCE_MM = 150.0


def is_implausible_length(length: np.ndarray, mean_length: np.ndarray) -> np.ndarray:
    """[...] bool from [...] lengths of bones and the means of these bones over a data set, mm; False where one is nan."""
    is_out_of_range = (length < LENGTH_RATIO[0] * mean_length) | (length > LENGTH_RATIO[1] * mean_length)
    return is_out_of_range & (np.abs(length - mean_length) > MAX_DIFFERENCE_MM)
