"""Dictionary objects of other libraries, held in memory, as if their files were read."""

from typing import Any

from torch import nn

from saev.errors import UserError
from saev.interop.weights_files import OpenFiles


def files_of(sae: Any) -> OpenFiles:
    """State dict and settings of an object of SAELens, dictionary_learning or overcomplete.

    Raises:
        UserError: it is none of them.
    """
    library = type(sae).__module__.partition(".")[0]
    if not isinstance(sae, nn.Module):
        raise UserError(
            f"sae is a {type(sae).__name__}; give a folder, a name or a dictionary object"
        )
    where, tensors = f"the {type(sae).__name__}", dict(sae.state_dict())
    if library == "sae_lens":
        config = dict(getattr(sae, "cfg").to_dict())  # noqa: B009 - of another library's class
        return OpenFiles(where, "", tensors, config)
    if library == "dictionary_learning":
        trainer = {"dict_class": type(sae).__name__}
        if hasattr(sae, "apply_b_dec_to_input"):
            trainer["apply_b_dec_to_input"] = sae.apply_b_dec_to_input  # pyright: ignore
        return OpenFiles(where, "", tensors, {"trainer": trainer})
    if library == "overcomplete":
        return OpenFiles(where, "", tensors, _of_overcomplete(sae))
    raise UserError(
        f"{where} comes from {library or 'no library'}; objects of sae_lens, dictionary_learning and "
        "overcomplete are read, others from their files"
    )


def _of_overcomplete(sae: Any) -> dict[str, Any]:
    """What the library keeps outside its state dict."""
    config: dict[str, Any] = {"class": type(sae).__name__}
    for name in ("top_k", "running_threshold"):
        if (value := getattr(sae, name, None)) is not None:
            config[name] = float(value) if name == "running_threshold" else int(value)
    dictionary = sae.dictionary
    if hasattr(dictionary, "delta"):
        config["delta"] = float(dictionary.delta)
    normalize = getattr(getattr(dictionary, "normalization", None), "__name__", "normalize_l2")
    config["dictionary_params"] = {"normalization": normalize.removeprefix("normalize_")}
    return config
