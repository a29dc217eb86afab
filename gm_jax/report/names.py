"""What the names of metrics mean to a reader: group, words, and which way is better."""

import re
from typing import NamedTuple


class Meaning(NamedTuple):
    """`better` is "lower", "higher", or "" where neither is; `main` metrics stand in short tables and in sweeps."""

    group: str
    words: str
    better: str = ""
    main: bool = False


QUALITY, REPRESENTATION, LIKELIHOOD, RECONSTRUCTION = "sample quality", "representation", "likelihood", "reconstruction"
SOLVERS = "solvers"

# The first pattern that a name starts with decides; tables keep this order.
MEANINGS = {
    r"fid(?=\d)": Meaning(QUALITY, "Fréchet distance of Inception features", "lower", True),
    r"frechet_": Meaning(QUALITY, "Fréchet distance of features", "lower", True),
    r"intra_(fid|frechet)": Meaning(QUALITY, "mean Fréchet distance within a class", "lower"),
    r"histogram_distance": Meaning(QUALITY, "total variation distance to the exact density", "lower", True),
    r"modes_found": Meaning(QUALITY, "modes found", "higher", True),
    r"high_quality": Meaning(QUALITY, "share of samples at a mode", "higher", True),
    r"classes_covered": Meaning(QUALITY, "classes among the samples", "higher"),
    r"class_kl": Meaning(QUALITY, "KL of the samples' classes to those of the data, nats", "lower"),
    r"class_accuracy": Meaning(QUALITY, "share of samples that show the class asked for", "higher"),
    r"kid(?=[_\d])": Meaning(QUALITY, "kernel distance", "lower"),
    r"is(?=[_\d])": Meaning(QUALITY, "inception score", "higher"),
    r"precision": Meaning(QUALITY, "precision", "higher", True),
    r"recall": Meaning(QUALITY, "recall", "higher", True),
    r"density": Meaning(QUALITY, "density", "higher"),
    r"coverage": Meaning(QUALITY, "coverage", "higher"),
    r"nearest_\w+_distance": Meaning(QUALITY, "distance to the nearest training image"),
    r"codes_(bits_per_dim|nats)": Meaning(REPRESENTATION, "length of the codes under the prior", "lower"),
    r"elbo_bits": Meaning(LIKELIHOOD, "ELBO", "lower", True),
    r"iwae_bits": Meaning(LIKELIHOOD, "IWAE", "lower", True),
    r"dequantized_bits": Meaning(LIKELIHOOD, "flow of dequantized images", "lower", True),
    r"variational_bound_bits": Meaning(LIKELIHOOD, "variational bound", "lower", True),
    r"ode_bits": Meaning(LIKELIHOOD, "probability-flow ODE", "lower", True),
    r"elbo": Meaning(LIKELIHOOD, "ELBO", "lower"),
    r"iwae": Meaning(LIKELIHOOD, "IWAE", "lower"),
    r"dequantized": Meaning(LIKELIHOOD, "flow of dequantized images", "lower"),
    r"variational_bound": Meaning(LIKELIHOOD, "variational bound", "lower"),
    r"ode": Meaning(LIKELIHOOD, "probability-flow ODE", "lower"),
    r"\w+_bits_per_dim$": Meaning(LIKELIHOOD, "negative log-likelihood", "lower", True),
    r"\w+_nats$": Meaning(LIKELIHOOD, "negative log-likelihood", "lower"),
    r"reconstruction_mse": Meaning(RECONSTRUCTION, "reconstruction MSE, pixels in [-1, 1]", "lower", True),
    r"reconstruction_squared_error": Meaning(RECONSTRUCTION, "squared error an image, pixels in [-1, 1]", "lower"),
    r"reconstruction_psnr": Meaning(RECONSTRUCTION, "peak signal-to-noise ratio", "higher"),
    r"reconstruction_ssim": Meaning(RECONSTRUCTION, "structural similarity", "higher"),
    r"mutual_information_minibatch": Meaning(REPRESENTATION, "minibatch estimate of the information"),
    r"mutual_information": Meaning(REPRESENTATION, "information of the latent on the image", "", True),
    r"rate": Meaning(REPRESENTATION, "mean KL to the prior, or length of the codes under it", "", True),
    r"marginal_kl": Meaning(REPRESENTATION, "KL of the aggregate posterior to the prior"),
    r"active_units": Meaning(REPRESENTATION, "latent dimensions in use", "", True),
    r"code_perplexity": Meaning(REPRESENTATION, "perplexity of the codes"),
    r"codes_used": Meaning(REPRESENTATION, "codes in use"),
    r"straightness": Meaning(SOLVERS, "variance of the velocity on the way from noise to data; 0: straight", "lower"),
    r"solver_error": Meaning(SOLVERS, "root mean square error beside the ODE's solution", "lower"),
    r"solver_": Meaning(SOLVERS, "distance of a solver's samples to the data", "lower"),
}
OTHER = Meaning("other", "")
FLOOR = "_floor"  # ends the name of what real images get under the protocol that the rest of the name says
DISTANCE = re.compile(r"(fid|frechet)[_\d]|histogram_distance_")


def meaning(name: str) -> Meaning:
    """Of a metric's name; an unknown one belongs to the group "other"."""
    return next((found for pattern, found in MEANINGS.items() if re.match(pattern, name)), OTHER)


def order(name: str) -> tuple[int, int, str]:
    """Sorts metrics by group, then by kind, then by name."""
    groups = list(dict.fromkeys([found.group for found in MEANINGS.values()] + [OTHER.group]))
    kinds = [i for i, pattern in enumerate(MEANINGS) if re.match(pattern, name)] or [len(MEANINGS)]
    return groups.index(meaning(name).group), kinds[0], name


def is_distance(name: str) -> bool:
    """Is it a distance of samples to the data: Fréchet's, or of points to their density?"""
    return bool(DISTANCE.match(name)) and not name.endswith(FLOOR)


def unit(name: str) -> str:
    """The unit that a name ends in, in words; "" if none."""
    return "bits/dim" if name.endswith("_bits_per_dim") else "nats" if name.endswith("_nats") else ""
