"""Operations that several networks share."""

from jaxtyping import Array, Float


def upsample_nearest(x: Float[Array, "batch height width channel"]) -> Float[Array, "batch 2*height 2*width channel"]:
    """Doubles height and width by repeating pixels."""
    return x.repeat(2, axis=1).repeat(2, axis=2)
