"""The key of a latency table: what an operator is, apart from its channel counts."""

from dataclasses import asdict, dataclass
from typing import Any

from lut.pattern import Pattern

KINDS = (
    "conv",
    "depthwise",
    "linear",
    "max_pool",
    "avg_pool",
    "global_pool",
    "add",
    "mul",
    "activation",
    "batch_norm",
    "gather",
    "concat",
)


@dataclass(frozen=True, kw_only=True, order=True)
class OpSignature:
    """One operator as the runtime sees it, with the activation it fuses; `(c_in, c_out)` completes the key.

    Letters: H, W = height and width of the *input* feature map (1, 1 for a linear layer on a vector).
    """

    kind: str
    """One of `KINDS`:

    * `conv`, `depthwise` (c_in == c_out), `linear`: with bias, BatchNorm folded in, activation and residual fused;
    * `max_pool`, `avg_pool`, `global_pool` (mean over H x W), `batch_norm` (one that no convolution absorbs),
      `activation`: c_in == c_out;
    * `add`: two maps of equal shape, and the activation after it, *where no convolution absorbs it* (see `residual`);
      c_in == c_out;
    * `mul`: a map times one number a channel (squeeze-and-excite), or, with `residual`, times a map of its own shape;
      c_in == c_out;
    * `concat`: c_in = c_out = all channels together, timed as two halves;
    * `gather`: c_out channels picked out of c_in and, where c_out > c_in, of zeros too, after subsampling by
      `stride`: channel slices, shuffles, and the padding shortcut of CIFAR ResNets as one operator. With `residual`
      also the add that follows it (and its activation): a runtime leaves its blocked layout for the gather, so this
      add is not absorbed by the convolution on its other side.
    """
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    """Convolution groups of a `conv`; a `depthwise` has as many as channels and leaves 1 here."""
    bias: bool = True
    """True also where a folded BatchNorm leaves one."""
    activation: str = ""
    """Fused or own activation: ``, `relu`, `relu6`, `hardswish`, `hardsigmoid`, `silu`, `sigmoid`, `gelu`,
    `leaky_relu`, `elu`, `tanh`, `softmax`.
    """
    residual: bool = False
    """True for a `conv` or `depthwise` whose output is added to another map of the same shape and that computes the
    sum itself.

    ONNX Runtime on CPU turns Conv + Add (+ ReLU) into one kernel that accumulates into the other operand, at the
    price of one read. So where an add has a convolution among its operands and nothing else reads that convolution's
    output (and no activation stands between them), emit no `add`: that convolution (the add's first operand, where
    both qualify) has `residual=True` and carries the activation that follows the add. Where the other operand is a
    `gather` (padding shortcut), the gather has `residual=True` and carries the activation, the convolution stays
    plain. All other adds stay operators of kind `add`. For `mul`: see `kind`.
    """

    pattern: str = ""
    """`` for a dense layer; else the id of the `lut.pattern.Pattern` that a `conv` (groups 1) or a `linear` on vectors
    keeps.

    A lowerable one is run as a gather of each block-row's list of input channels and a convolution with one group a
    block-row (method, section 4), fitted to (c_in, c_out); a strided 1x1 convolution without padding subsamples first.
    Element-wise N:M, alone (`2:4`) or within tiles (`2:4+16x16@1/2`), is there for devices that have a product for it; on
    others it has no entry, and no credit.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for a pattern that is none, or that this operator never has."""
        if not self.pattern:
            return
        layer = self.kind == "conv" or (self.kind == "linear" and self.height * self.width == 1)
        pattern = Pattern.parse(self.pattern)
        if not layer or self.groups != 1 or pattern.is_dense or pattern.per_tap:
            raise ValueError(f"a {self.kind} is never run with pattern {self.pattern!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values (tuples become lists)."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "OpSignature":
        """Rebuild a signature from `to_json`; unknown fields raise TypeError."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**fields)
