"""Weights from files: found or downloaded, checked, and loaded into a network whose layers were swapped."""

import hashlib
import http.client
import os
import pathlib
import urllib.request
import warnings

import keras

_APPLICATIONS_URL = "https://storage.googleapis.com/tensorflow/keras-applications/"
_DOWNLOAD_TIMEOUT_S = 20


def existing_file(path: str | os.PathLike) -> pathlib.Path:
    """Raises: FileNotFoundError if there is no such file of weights."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"There is no file of backbone weights {str(path)!r}. Expected 'none', 'imagenet' "
                                "or the path of a .weights.h5, .keras or keras.applications .h5 file.")
    return path


def imagenet_file(published: str, md5: str) -> pathlib.Path:
    """The file of weights that keras.applications publishes, downloaded to where keras keeps it on first use.

    Args:
        published: folder and name of the file below the address of keras.applications.
        md5: hexadecimal digest of the file.

    Raises: ConnectionError if it cannot be downloaded or its digest is wrong.
    """
    path = pathlib.Path(_keras_home()) / "models" / pathlib.PurePosixPath(published).name
    return path if path.is_file() else _download(_APPLICATIONS_URL + published, md5, path)


def _keras_home() -> str:
    """Where Keras keeps its files: KERAS_HOME or ~/.keras."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


def _download(url: str, md5: str, path: pathlib.Path) -> pathlib.Path:
    """The file appears under its name only when it is complete and its digest is right."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.partial")
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_S) as response, partial_path.open("wb") as file:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
        if digest.hexdigest() != md5:
            raise ConnectionError(f"the MD5 of what came is {digest.hexdigest()}, expected {md5}")
        partial_path.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(
            f"Could not download the ImageNet weights {url} ({error}). Without network access, fetch that file on "
            f"another machine and put it at {path}, or give its path as the weights; weights='none' starts from "
            "random ones.") from error
    finally:
        partial_path.unlink(missing_ok=True)
    return path


def load_weights(swapped: keras.Model, original: keras.Model, path: pathlib.Path) -> None:
    """Loads a file into `swapped` that was written from it or from the network it was made of.

    Args:
        swapped: takes the weights.
        original: the network of keras.applications, with the same weights in the same order; it may be overwritten.
        path: of a .weights.h5, .keras or keras.applications .h5 file.

    Raises: ValueError if the file fits neither.
    """
    reasons = []
    for model in (swapped, original):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # all that keras says when it leaves weights out
                model.load_weights(path)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            reasons.append(f"{type(error).__name__}: {error}")
            continue
        if model is original:
            swapped.set_weights(original.get_weights())
        return
    raise ValueError(f"The weights in {str(path)!r} do not fit the backbone {original.name!r}. Expected a file saved "
                     "from this very backbone, or from the keras.applications model of that name without its top. "
                     f"Read as the former: {reasons[0]} Read as the latter: {reasons[1]}")
