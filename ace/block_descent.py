"""Fits the weights to the second moments of the joints, block by block, each block to its optimum.

Where a joint's residual has a normal distribution of variance v, its mean absolute value is sqrt(2 v / pi). So the moments
tell the objective without the poses, and passes over the data are not needed:

    mean over joints of sqrt(2 v_j / pi) / 1000 + l1 (mean |W_enc| + mean |W_dec|),    v_j = (I - R) M (I - R)^T at j, j

with R = W_dec W_enc. Square roots and absolute values are majorised by parabolas that touch them (iteratively reweighted
least squares), so a row of weights has a closed form: all rows of the decoder at once, rows of the encoder in turn.
Extrapolating from sweep to sweep makes up for the slow exchange between the blocks. Compared with gradient steps, moments
whose eigenvalues span six orders of magnitude (a body's size, and noise) do no harm.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from ace.objective import l1_factors

FIRST_SMOOTHING, LAST_SMOOTHING, SMOOTHING_DECAY = 1e-3, 1e-6, 0.87  # of |w|, as sqrt(w^2 + smoothing^2); per sweep
NEGLIGIBLE_SHARE = 1e-2  # of the smoothing: smaller weights of the encoder have become 0 and stay so
FLAT_IMPROVEMENT, FLAT_INTERVAL = 2e-4, 10  # flat: so many sweeps improve the objective by no larger share
MAX_EXTRAPOLATION = 0.95  # of the change from sweep to sweep
SPARSITY_WEIGHT, SPARSITY_SCALE = 0.003, 0.02  # see `BlockDescent`
NOISE_VARIANCE = 100.0  # mm^2
FAINT_WEIGHT = 1e-4  # of all joints in a latent point that starts at one: what is exactly 0 stays so
DUPLICATE_MM = 1.0  # mean distance of latent points that do the work of one
DEAD_WEIGHT = 1e-3  # no weight of a dead latent point is as large
SEED_SWEEP = 12  # after which dead and duplicate latent points are seeded anew
_MIN_VARIANCE = 1e-3  # mm^2
_RIDGE = 1e-9  # of the mean variance: keeps systems solvable where latent points coincide


class BlockDescent:
    """One descent, from given weights.

    The objective does not tell the many convex combinations apart that show the same on the image. Two small terms do:

    * The decoder takes combinations of few latent points: to |w| is added 0.003 log(1 + |w| / 0.02). On poses of 555 joints
      this halves the number of weights and raises the objective by 0.07 %.
    * The encoder averages over joints as if each had independent noise of 10 mm, which the image does not show: to v_j are
      added 100 mm^2 |R_j|^2. Errors in depth of the reconstruction fall by 28 %, and the objective rises by 0.9 %.

    Attributes:
        encoder, decoder: [L, J], [J, L] float64, of the best sweep so far; rows sum to 1, mirror images share weights.
        objectives: after each sweep.

    Args:
        encoder, decoder: to start from.
        moments: [J, J] mm^2, as from `joint_moments`.
        joint_weights: [J] of the joints in the mean; mirror images alike.
        mirrors: of the latent points [L] and of the joints [J].
    """

    def __init__(self, encoder: np.ndarray, decoder: np.ndarray, moments: np.ndarray, joint_weights: np.ndarray,
                 mirrors: tuple[np.ndarray, np.ndarray], l1: float):
        faint = encoder + FAINT_WEIGHT
        self.encoder, self.decoder = faint / faint.sum(axis=1, keepdims=True), decoder
        self._latent_mirror, self._joint_mirror = mirrors
        self._moments = moments
        self._data_factors = np.sqrt(2 / np.pi) / 1000 * joint_weights / joint_weights.sum()
        self._encoder_l1, self._decoder_l1 = l1_factors(*encoder.shape, l1)
        self._smoothing, self._extrapolation, self._ahead = FIRST_SMOOTHING, 0.3, (self.encoder, self.decoder)
        self.objectives = []
        self._own_latents = np.flatnonzero(mirrors[0] >= np.arange(len(mirrors[0])))  # the others are mirror images
        self._own_joints = np.flatnonzero(mirrors[1] >= np.arange(len(mirrors[1])))

    @property
    def is_flat(self) -> bool:
        """Whether the last sweeps did no more than improve the objective a little, with hardly any smoothing left."""
        done = self.objectives
        return (self._smoothing == LAST_SMOOTHING and len(done) > FLAT_INTERVAL
                and done[-1] > done[-FLAT_INTERVAL - 1] * (1 - FLAT_IMPROVEMENT))

    def sweep(self) -> None:
        """Fits every row of both matrices once."""
        decoder = self._fit_decoder(*self._ahead)
        encoder = self._fit_encoder(self._ahead[0], decoder)
        if len(self.objectives) == SEED_SWEEP and (useless := self._useless_latents(encoder, decoder)):
            encoder, decoder = self._seed(useless, encoder, decoder)
            self.encoder, self.decoder = encoder, decoder
        if self._objective(encoder, decoder, self._smoothing) <= self._objective(self.encoder, self.decoder, self._smoothing):
            self._ahead = (encoder + self._extrapolation * (encoder - self.encoder),
                           decoder + self._extrapolation * (decoder - self.decoder))
            self.encoder, self.decoder = encoder, decoder
            self._extrapolation = min(MAX_EXTRAPOLATION, 1.15 * self._extrapolation + 0.02)
        else:  # too far ahead: once more, from where the objective was lowest
            self._ahead, self._extrapolation = (self.encoder, self.decoder), self._extrapolation / 2
        self._smoothing = max(LAST_SMOOTHING, SMOOTHING_DECAY * self._smoothing)
        self.objectives.append(self._objective(self.encoder, self.decoder, 0.0))

    def _objective(self, encoder, decoder, smoothing):
        weights = [np.sqrt(np.square(w) + smoothing**2).sum() for w in (encoder, decoder)]
        sparsity = SPARSITY_WEIGHT * np.log1p(np.abs(decoder) / SPARSITY_SCALE).sum()
        return float(self._data_factors @ self._deviations(decoder, *self._latent_moments(encoder))
                     + self._encoder_l1 * weights[0] + self._decoder_l1 * (weights[1] + sparsity))

    def _latent_moments(self, encoder):
        """Second moments of the latent points [L, L], and of joints with them [J, L]."""
        products = self._moments @ encoder.T
        return encoder @ products + NOISE_VARIANCE * encoder @ encoder.T, products

    def _deviations(self, decoder, gram, products):
        """[J] mm: standard deviations of the joints' residuals; `gram` [L, L] of the latents, `products` [J, L] with them."""
        variances = np.diag(self._moments) - 2 * (products * decoder).sum(axis=1) + ((decoder @ gram) * decoder).sum(axis=1)
        return np.sqrt(np.maximum(variances, _MIN_VARIANCE))

    def _fit_decoder(self, encoder, decoder):
        """Each joint's weights, given the latent points."""
        own, mirror = self._own_joints, self._joint_mirror
        gram, products = self._latent_moments(encoder)
        curvatures = (self._data_factors / self._deviations(decoder, gram, products) / 2)[own]
        magnitudes = np.sqrt(np.square(decoder[own]) + self._smoothing**2)
        systems = curvatures[:, None, None] * gram
        diagonal = np.arange(len(gram))
        systems[:, diagonal, diagonal] += (self._decoder_l1 / 2 * (1 + SPARSITY_WEIGHT / (magnitudes + SPARSITY_SCALE))
                                           / magnitudes + _RIDGE * curvatures[:, None] * np.trace(gram) / len(gram))
        right = np.stack([curvatures[:, None] * products[own], np.ones((len(own), len(gram)))], axis=-1)
        solutions = np.linalg.solve(systems, right)
        rows = _sum_to_one(solutions[..., 0], solutions[..., 1])
        fitted = np.empty_like(decoder)
        fitted[mirror[own]] = rows[:, self._latent_mirror]
        fitted[own] = np.where((mirror[own] == own)[:, None], (rows + rows[:, self._latent_mirror]) / 2, rows)
        return fitted

    def _fit_encoder(self, encoder, decoder):
        """Each latent point's weights in turn, given the decoder and the other latent points."""
        curvatures = self._data_factors / self._deviations(decoder, *self._latent_moments(encoder)) / 2
        encoder = encoder.copy()
        weighted = decoder.T * curvatures
        gram = weighted @ decoder
        for k in self._own_latents:
            if gram[k, k] == 0:  # no joint uses it
                continue
            others = gram[k] @ encoder - gram[k, k] * encoder[k]
            wanted = self._moments @ (weighted[k] - others) - NOISE_VARIANCE * others
            used = np.flatnonzero(np.abs(encoder[k]) > NEGLIGIBLE_SHARE * self._smoothing)
            system = self._moments[np.ix_(used, used)]
            magnitudes = np.sqrt(np.square(encoder[k, used]) + self._smoothing**2)
            system[np.diag_indices_from(system)] += NOISE_VARIANCE + self._encoder_l1 / 2 / magnitudes / gram[k, k]
            right = np.stack([wanted[used] / gram[k, k], np.ones(len(used))], axis=-1)
            solutions = cho_solve(cho_factor(system, overwrite_a=True, check_finite=False), right, check_finite=False)
            row = np.zeros(encoder.shape[1])
            row[used] = _sum_to_one(*solutions.T)
            if self._latent_mirror[k] == k:
                row = (row + row[self._joint_mirror]) / 2
            encoder[k], encoder[self._latent_mirror[k]] = row, row[self._joint_mirror]
        return encoder

    def _useless_latents(self, encoder, decoder):
        """Latent points of one side or the centre that no joint uses, or that lie where an earlier one of the kind lies."""
        gram = encoder @ self._moments @ encoder.T
        squared = np.add.outer(np.diag(gram), np.diag(gram)) - 2 * gram
        is_centre = self._latent_mirror == np.arange(len(gram))
        useless = []
        for k in self._own_latents:
            earlier = [i for i in range(k) if i not in useless and is_centre[i] == is_centre[k]]
            if (squared[earlier, k] < DUPLICATE_MM**2).any() or np.abs(decoder[:, k]).max() < DEAD_WEIGHT:
                useless.append(int(k))
        return useless

    def _seed(self, useless, encoder, decoder):
        """Moves latent points to the joints of their side or centre with the largest residuals."""
        encoder, decoder = encoder.copy(), decoder.copy()
        residuals = self._deviations(decoder, *self._latent_moments(encoder))
        own_image = self._joint_mirror == np.arange(len(residuals))
        for k in useless:
            candidates = np.flatnonzero(own_image == (self._latent_mirror[k] == k))
            if not len(candidates):
                continue
            joint = candidates[residuals[candidates].argmax()]
            for latent, place in ((k, joint), (self._latent_mirror[k], self._joint_mirror[joint])):
                encoder[latent] = (np.eye(encoder.shape[1])[place] + FAINT_WEIGHT) / (1 + encoder.shape[1] * FAINT_WEIGHT)
                decoder[place] = np.eye(encoder.shape[0])[latent]
                residuals[place] = 0
        return encoder, decoder


def _sum_to_one(solutions, multipliers):
    """Of a system's solutions without the constraint and for a right side of ones: rows that sum to 1 (Lagrange)."""
    missing = 1 - solutions.sum(axis=-1, keepdims=True)
    return solutions + multipliers * (missing / multipliers.sum(axis=-1, keepdims=True))
