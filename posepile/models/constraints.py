"""Bounds on the weights of convolution kernels, applied by the optimizer after every step."""

import keras
from keras import ops

MAX_KERNEL_NORM = 20.0  # WACV 2023 (supplement): keeps activations in the range of float16 in long trainings
CONVOLUTION_AXES = (0, 1, 2)  # of a kernel [height, width, channels_in, channels_out]: one norm per output channel
DEPTHWISE_AXES = (0, 1)  # of a kernel [height, width, channels, multiplier]: one norm per filter


@keras.saving.register_keras_serializable(package="posepile")
class KernelMaxNorm(keras.constraints.Constraint):
    """Scales a filter down to the L2 norm `max_norm` where its norm is larger; others stay bitwise the same.

    (keras.constraints.MaxNorm multiplies every filter by norm / (norm + 1e-7), so even short ones creep.)

    Args:
        max_norm: largest norm, > 0.
        axes: axes of the kernel over which one filter extends: CONVOLUTION_AXES or DEPTHWISE_AXES.

    Raises: ValueError if `max_norm` is not positive or there are no axes.
    """

    def __init__(self, max_norm: float = MAX_KERNEL_NORM, axes: tuple[int, ...] = CONVOLUTION_AXES):
        if not max_norm > 0:
            raise ValueError(f"KernelMaxNorm got max_norm={max_norm!r}; expected a positive number. To leave kernels "
                             "unbounded use no constraint at all.")
        if len(axes) == 0:
            raise ValueError("KernelMaxNorm got no axes; expected those over which one filter extends, such as "
                             f"{CONVOLUTION_AXES} for a convolution and {DEPTHWISE_AXES} for a depthwise one.")
        self.max_norm = float(max_norm)
        self.axes = tuple(int(axis) for axis in axes)

    def __call__(self, kernel):
        squared_norm = ops.sum(ops.square(kernel), axis=self.axes, keepdims=True)
        # rsqrt(0) is inf, and the minimum makes it the factor 1
        return kernel * ops.minimum(1.0, self.max_norm * ops.rsqrt(squared_norm))

    def get_config(self):
        return {"max_norm": self.max_norm, "axes": list(self.axes)}
