"""Flags that several programs share; absl refuses a second definition."""

from absl import flags

DATA_ROOT = flags.DEFINE_string("data_root", "data", "Folder of the prepared data sets.")
