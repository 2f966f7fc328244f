"""The figures of `benchmarks.train_step`: what is measured, and how."""

import dataclasses
import re
import time
from collections.abc import Callable, Mapping

import keras
import numpy as np

from benchmarks import training_variants
from benchmarks.machine import machine_facts

SEED = 1
NUM_JOINTS, FEW_JOINTS = 555, 17
MICRO_BATCHES = 4
TRAINING_FLOPS = 3  # times those of a forward pass: backward goes to the inputs and to the weights
PACKAGES = {"tensorflow": ["tensorflow"], "jax": ["jax", "jaxlib"], "torch": ["torch"]}

# Dense 16-bit TFLOP/s of chips whose names contain all these words; the first entry that matches counts. Sources: NVIDIA's
# data sheets of the H100, H200 and A100 Tensor Core GPU; those of the first two print twice the rates, of sparse matrices.
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100 NVL": 835.5, "H100": 989.4, "H200 NVL": 835.5, "H200": 989.4, "A100": 312.0}


@dataclasses.dataclass(frozen=True)
class Network:
    """What is trained: a backbone, the side of its crops in px, crops per step."""

    backbone: str
    crop_side: int
    batch_size: int

    def __str__(self):
        return f"{self.backbone}, {self.crop_side} px, {self.batch_size} crops"


@dataclasses.dataclass(frozen=True)
class Workload:
    """How much is measured.

    Attributes:
        step_ratio: networks for that figure.
        joints_ratio, others, throughput: the network for the figure, for those not mentioned, and for an accelerator.
        rounds: steps timed per variant; half as many of the network for joints_ratio, which is slow.
        builds: graphs built per variant.
        blocks, block_steps: on an accelerator, so many runs of so many steps.
    """

    step_ratio: tuple[Network, ...] = (Network("efficientnetv2-b0", 128, 32), Network("efficientnetv2-s", 256, 16))
    joints_ratio: Network = Network("efficientnetv2-s", 256, 16)
    others: Network = Network("efficientnetv2-b0", 128, 64)
    throughput: Network = Network("efficientnetv2-s", 256, 128)
    rounds: int = 10
    builds: int = 2
    blocks: int = 5
    block_steps: int = 20

    def replace(self, backbone: str | None, crop_side: int | None, batch_size: int | None) -> "Workload":
        """With other networks, None for what stays."""
        def change(network, batch_size=batch_size):
            return Network(backbone or network.backbone, crop_side or network.crop_side, batch_size or network.batch_size)

        return dataclasses.replace(
            self, step_ratio=tuple(dict.fromkeys(map(change, self.step_ratio))), joints_ratio=change(self.joints_ratio),
            others=change(self.others, None), throughput=change(self.throughput))


def measure(workload: Workload, precision: str | None = None) -> dict:
    """Returns: the figures named in `benchmarks.train_step`, then what they are made of."""
    start = time.perf_counter()
    device = training_variants.device_name()
    precision = precision or ("mixed_bfloat16" if device else "float32")
    training_variants.configure(SEED, precision)
    result = measure_throughput(workload, device, precision) if device else measure_ratios(workload)
    return {**result, "precision": precision, "benchmark_seconds": round(time.perf_counter() - start),
            "machine": machine_facts("keras", *PACKAGES[keras.backend.backend()])}


def measure_ratios(workload: Workload) -> dict:
    """The figures for a CPU."""
    ratios, steps = {}, {}
    step_ratios = measure_full_steps(workload, ratios, steps)
    measure_normalization(workload, ratios, steps)
    measure_micro_batches(workload, ratios, steps)
    figures = ("ghost_ratio", "parts_ratio", "graph_build_ratio", "joints_ratio", "accumulation_ratio")
    return {"step_ratio": {name: _median(values) for name, values in step_ratios.items()},
            **{name: _median(ratios[name]) for name in figures},
            "spread": {name: np.percentile(values, [25, 75]).round(3).tolist() for name, values in {
                **{f"step_ratio {name}": values for name, values in step_ratios.items()}, **ratios}.items() if len(values)},
            "steps": steps}


def measure_full_steps(workload: Workload, ratios: dict, steps: dict) -> dict[str, np.ndarray]:
    """Puts joints_ratio into `ratios`, see `time_steps` for `steps`. Returns: the step ratios of every round, by backbone."""
    step_ratios = {}
    for network in dict.fromkeys([*workload.step_ratio, workload.joints_ratio]):
        variants, rounds = {"full": training_variants.full_step(*dataclasses.astuple(network), NUM_JOINTS)}, workload.rounds
        if network in workload.step_ratio:
            variants["stock"] = training_variants.stock_step(*dataclasses.astuple(network), NUM_JOINTS)
        if network == workload.joints_ratio:
            variants["few_joints"] = training_variants.full_step(*dataclasses.astuple(network), FEW_JOINTS)
            rounds = max(1, rounds // 2)
        seconds = time_steps(network, variants, rounds, steps)
        if "stock" in seconds:
            step_ratios[network.backbone] = seconds["full"] / seconds["stock"]
        if "few_joints" in seconds:
            ratios["joints_ratio"] = seconds["full"] / seconds["few_joints"]
    return step_ratios


def measure_normalization(workload: Workload, ratios: dict, steps: dict) -> None:
    """ghost_ratio, parts_ratio, graph_build_ratio."""
    network = workload.others
    num_3d = round(network.batch_size * training_variants.SHARE_3D)
    group_sizes = {"plain_bn": "plain", "ghost_bn": 16, "ghost_bn_parts": (num_3d, network.batch_size - num_3d)}
    made = {name: training_variants.backbone_step(*dataclasses.astuple(network), sizes) for name, sizes in group_sizes.items()}
    variants = {name: step for name, (step, _) in made.items()}
    seconds = time_steps(network, variants, workload.rounds, steps)
    ratios["ghost_ratio"] = seconds["ghost_bn"] / seconds["plain_bn"]
    ratios["parts_ratio"] = seconds["ghost_bn_parts"] / seconds["plain_bn"]
    compared = ("ghost_bn", "plain_bn")
    builds = []
    for _ in range(workload.builds if training_variants.has_graphs() else 0):
        for name in compared:
            made[name][1]()
        first, later = (_round({name: variants[name] for name in compared}, time.process_time) for _ in range(2))
        builds.append([first[name] - later[name] for name in compared])
    ratios["graph_build_ratio"] = np.array([ghost / plain for ghost, plain in builds])


def measure_micro_batches(workload: Workload, ratios: dict, steps: dict) -> None:
    """accumulation_ratio."""
    network = workload.others
    variants = {name: training_variants.full_step(*dataclasses.astuple(network), NUM_JOINTS, micro_batches)
                for name, micro_batches in (("one_batch", 1), ("micro_batches", MICRO_BATCHES))}
    seconds = time_steps(network, variants, workload.rounds, steps)
    ratios["accumulation_ratio"] = seconds["micro_batches"] / seconds["one_batch"]


def time_steps(network: Network, variants: Mapping[str, Callable[[], object]], rounds: int,
               steps: dict) -> dict[str, np.ndarray]:
    """Seconds of the steps of every variant, [rounds]; adds to `steps` what is to be told of each, by network and variant."""
    first, _ = (_round(variants, time.perf_counter) for _ in range(2))
    orders = variants, dict(reversed(variants.items()))
    timings = [_round(orders[index % 2], time.perf_counter) for index in range(rounds)]
    seconds = {name: np.array([timing[name] for timing in timings]) for name in variants}
    steps.setdefault(str(network), {}).update({name: {
        "median_ms": round(1000 * float(np.median(values))), "fastest_ms": round(1000 * float(values.min())),
        "first_step_s": round(first[name], 1)} for name, values in seconds.items()})
    return seconds


def measure_throughput(workload: Workload, device: str, precision: str) -> dict:
    """The figures for an accelerator."""
    network = workload.throughput
    training = training_variants.make_training(network.backbone, network.crop_side, NUM_JOINTS)
    batches = [training_variants.make_batch(network.batch_size, network.crop_side, NUM_JOINTS, seed) for seed in range(2)]
    rates = []
    for _ in range(workload.blocks + 1):  # the first one compiles
        start = time.perf_counter()
        for step in range(workload.block_steps):
            results = training.run(batches[step % len(batches)])
        training_variants.wait(results)
        rates.append(workload.block_steps * network.batch_size / (time.perf_counter() - start))
    rate = float(np.median(rates[1:]))
    flops = TRAINING_FLOPS * training_variants.count_flops(training.objective.pose_model)
    return {"crops_per_second": round(rate, 1), "share_of_peak": share_of_peak(rate * flops, device, precision),
            "device": device, "spread": {"crops_per_second": np.percentile(rates[1:], [25, 75]).round(1).tolist()},
            "network": str(network), "gflops_per_crop": round(flops / 1e9, 2)}


def share_of_peak(flops_per_second: float, device: str, precision: str) -> float | None:
    """Of what the accelerator of this name does in matrix units at best; None if that is unknown, or not of 16 bits."""
    peaks = [peak for name, peak in PEAK_TFLOPS.items() if set(name.split()) <= set(re.split(r"[ -]", device))]
    return round(flops_per_second / 1e12 / peaks[0], 3) if peaks and precision.endswith("float16") else None


def _round(variants: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of one step of every variant, in their order."""
    seconds = {}
    for name, step in variants.items():
        start = clock()
        step()
        seconds[name] = clock() - start
    return seconds


def _median(values: np.ndarray) -> float | None:
    return round(float(np.median(values)), 3) if len(values) else None
