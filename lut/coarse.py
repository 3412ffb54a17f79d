"""Tables from elsewhere whose key is `batch, c_in, c_out, feature map, kernel, stride, groups` and nothing more.

Padding, bias, activation, a fused sum are not in that key: such a table says what a convolution of this shape takes,
however it is padded and whatever is fused with it. A signature is looked up by what the key holds. What is no
convolution (adds, pools, linear layers) has no entry there and costs nothing; a table built this way says so
(`LatencyTable.coarse`).
"""

from dataclasses import replace

from lut.signature import OpSignature

PRICED = ("conv", "depthwise")


def is_free(signature: OpSignature) -> bool:
    """Return True for an operator of which a coarse table never has entries: it costs nothing there."""
    return signature.kind not in PRICED


def coarse_signature(signature: OpSignature) -> OpSignature:
    """Return the signature as a coarse table spells it: padding kernel // 2, with bias, nothing fused.

    Kind, map, kernel, stride, dilation, groups and pattern stay: a dilated or lowered convolution has no entry.
    """
    height, width = signature.kernel
    return replace(signature, padding=(height // 2, width // 2), bias=True, activation="", residual=False)
