"""The contents of ``config.json``: shape, activation, provenance."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from saev.errors import UserError
from saev.files import (
    BACKBONE_IDENTITY,
    RECORDED_TOKENS,
    a_flag,
    a_number,
    a_text,
    a_whole,
    an_object,
    check_fields,
    one_of,
    or_null,
    plain_data,
    plain_object,
)

FORMAT_VERSION = 1
"""Version of the folder written by ``save_pretrained``; raised when a reader must change."""

ACTIVATIONS = ("relu", "topk", "batch_topk", "jump_relu", "gated")
READ_ACTIVATIONS = ("signed_topk", "group_max")
"""Of dictionaries of others: read, run and edited here, and not trained."""
TOKEN_NORMS = ("none", "layer_norm", "sqrt_d")
TOPK_FAMILY = ("topk", "batch_topk")

FIELDS = an_object(
    {"d_model": a_whole(1, 10**6), "d_sae": a_whole(1, 10**9), "format_version": a_whole(1)},
    {
        "activation": one_of(*ACTIVATIONS, *READ_ACTIVATIONS),
        "k": or_null(a_number(0, above=True)),
        "subtract_b_dec": a_flag(),
        "max_norm": or_null(a_number(0, above=True)),
        "token_norm": one_of(*TOKEN_NORMS),
        "skip": a_flag(),
        "backbone": or_null(BACKBONE_IDENTITY),
        "layer": or_null(a_whole(0, 10_000)),
        "tokens": or_null(RECORDED_TOKENS),
        "manifest_id": or_null(a_text()),
        "manifest_sha256": or_null(a_text(100)),
        "images": or_null(plain_data),
        "recipe": plain_object,
    },
)
"""Of ``config.json``, whoever wrote it."""


@dataclass(frozen=True)
class SAEConfig:
    """Shape, activation and origin of a sparse autoencoder.

    The input normalisation (mean and scale) is not here: it is data, and lies next to these fields
    in ``config.json`` under ``normalization``.

    Raises:
        ValueError: a field is out of range; the message names the field and the value.
    """

    d_model: int
    """Width of the activations."""
    d_sae: int
    """Number of latents."""
    activation: str = "topk"
    """One of ``ACTIVATIONS`` or ``READ_ACTIVATIONS``."""
    k: int | float | None = None
    """Latents per token: exactly (``topk``, ``signed_topk``, ``group_max``: whole), on average
    (``batch_topk``), aimed at while training (``jump_relu``, ``gated``; None there: whatever the penalty
    leads to)."""
    subtract_b_dec: bool = True
    """Whether the decoder bias is subtracted from the input before the encoder."""
    max_norm: float | None = None
    """Largest L2 norm, in raw units, of a token the dictionary answers for; None: every token."""
    backbone: dict[str, Any] | None = None
    """family, name, weights (kind, source, sha256) and spec, the arguments of ``load_backbone``."""
    layer: int | None = None
    """0-based block after which the activations were taken."""
    tokens: dict[str, Any] | None = None
    """Which tokens were recorded."""
    manifest_id: str | None = None
    """Identity of the activations it was trained on."""
    manifest_sha256: str | None = None
    """Of the text of their manifest."""
    images: dict[str, Any] | None = None
    """The image source they were recorded from: ``kind`` and keyword arguments."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """Hyperparameters of the training run; of a dictionary of others where it comes from."""
    token_norm: str = "none"
    """Normaliser of each token before mean and scale, one of ``TOKEN_NORMS``; undone on decoding."""
    skip: bool = False
    """Whether a linear path W_skip runs beside the latents."""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.d_model < 1:
            raise ValueError(f"d_model must be at least 1, got {self.d_model}.")
        if self.d_sae < 1:
            raise ValueError(f"d_sae must be at least 1, got {self.d_sae}.")
        if self.activation not in ACTIVATIONS + READ_ACTIVATIONS:
            allowed = ", ".join(ACTIVATIONS + READ_ACTIVATIONS)
            raise ValueError(f"activation must be one of {allowed}, got {self.activation!r}.")
        self._check_k()
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm must be positive or null, got {self.max_norm}.")
        if self.token_norm not in TOKEN_NORMS:
            allowed = ", ".join(TOKEN_NORMS)
            raise ValueError(f"token_norm must be one of {allowed}, got {self.token_norm!r}.")

    def _check_k(self) -> None:
        if self.activation == "relu":
            if self.k is not None:
                raise ValueError(
                    f"k has no effect with activation={self.activation}, got {self.k}; "
                    "choose another activation or leave it out."
                )
            return
        whole = self.activation in ("topk", *READ_ACTIVATIONS)
        if whole and (self.k is None or self.k < 1 or self.k != int(self.k)):
            raise ValueError(
                f"k must be at least 1 and whole for activation={self.activation}, got {self.k}."
            )
        if self.activation == "group_max" and self.d_sae % int(self.k or 1):
            raise ValueError(
                f"k must divide the number of latents d_sae={self.d_sae} for activation=group_max, "
                f"got {self.k}."
            )
        if self.activation == "batch_topk" and self.k is None:
            raise ValueError("k must be a positive number for activation=batch_topk, got None.")
        if self.k is not None and not self.k > 0:
            raise ValueError(f"k must be positive, got {self.k}.")
        if self.k is not None and self.k > self.d_sae:
            raise ValueError(
                f"k must not exceed the number of latents d_sae={self.d_sae}, got {self.k}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able mapping of every field, but of the two of dictionaries of others where they say
        nothing: without them earlier versions read it."""
        values = asdict(self)
        for name, usual in (("token_norm", "none"), ("skip", False)):
            if values[name] == usual:
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> "SAEConfig":
        """The inverse of ``to_dict``; ``where`` names the source in error messages.

        Raises:
            UserError: another format version, a missing or unknown key, a value of another type or
                out of range.
        """
        version = values.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool):
            raise UserError(f"{where} is not the config of a saev dictionary: no format_version.")
        if version > FORMAT_VERSION:
            raise UserError(
                f"{where} has format version {version} but this saev reads up to "
                f"{FORMAT_VERSION}; update saev."
            )
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise UserError(f"{where} has the unknown key {unknown[0]!r}; remove or correct it.")
        check_fields(values, FIELDS, where, "export the dictionary again")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} is not valid: {error}") from error
