"""What all adversarial models share: two players, who updates when, what is drawn, and what is seen of the game.

A model names its players (`core.Player`), its loss and its penalty (`gm_jax.adversarial`). The critic updates at every step,
the generator at every `n_critic`-th; a penalty may be due at some steps only ("lazy", Karras et al. 2020, appendix B), where
it shares the critic's optimizer and weighs as much as the updates that went without it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.adversarial import AdversarialLoss, Penalty, Scores, spread, symptoms
from gm_jax.conditioning import check_labels, draw_labels
from gm_jax.core import Batch, Images, Key, Labels, Latent, Model, Objective, Player, PyTree, Variables, streams
from gm_jax.errors import InputError


class Regularizer(NamedTuple):
    """A penalty on the critic, its weight (of the step, a traced number), and every how many steps it is due."""

    penalty: Penalty
    weight: Callable[[Array], Float[Array, ""] | float]
    every: int = 1


class Draw(NamedTuple):
    """Latents, and the classes that go with them; None for a model without."""

    z: Float[Array, "batch latent"]
    labels: Labels | None


def adversarial_model(
    num_classes: int | None,
    generator: Player,
    critic: Player,
    latent_dim: int,
    loss: AdversarialLoss,
    *,
    regularizer: Regularizer | None = None,
    n_critic: int = 1,
    generator_batch: int = 1,
    paired: bool = False,
    prepare: Callable[[Key, Images], Images] = lambda keys, x: x,
    latents: tuple[Latent, ...] | None = None,
) -> Model:
    """The model of two players.

    generator_batch: samples in an update of the generator, in batches. paired: generated data take the labels of the real ones
    that they are held against, as a loss of pairs asks. prepare: what is done to real data in training, by the example's keys.
    latents: those of the model; None: z alone.

    `sample` takes `truncation`: latents are drawn from the normal distribution between -truncation and truncation (Brock et al.
    2019, section 3.1). Raises InputError for labels of a model without classes.
    """

    def draw(keys: Key, labels: Labels | None = None) -> Draw:
        z_keys, label_keys = streams(keys, "z", "label")
        if num_classes is not None and labels is None:
            labels = draw_labels(label_keys, num_classes)
        return Draw(normal(z_keys, latent_dim), labels)

    def init(key: Key, batch: Batch) -> Variables:
        generator_key, critic_key = streams(key, "generator", "critic")
        first = {
            "generator": generator.init(generator_key, *draw(batch.keys)),
            "critic": critic.init(critic_key, batch.x, labels_of(batch)),
        }
        return Variables(*({name: variables[i] for name, variables in first.items()} for i in (0, 1)))

    def labels_of(batch: Batch) -> Labels | None:
        return None if num_classes is None else batch.labels

    def generate(params, state, drawn: Draw, keys: Key, train: bool) -> tuple[Images, PyTree]:
        both = Variables(params["generator"], state["generator"])
        x, new = generator.apply(both, *drawn, train=train, keys=streams(keys, "generator's noise")[0])
        return x, {**state, "generator": new}

    def criticize(params, state, x, labels, train: bool) -> tuple[Scores, PyTree]:
        scores, new = critic.apply(Variables(params["critic"], state["critic"]), x, labels, train=train)
        return scores, {**state, "critic": new}

    def seen(batch: Batch, train: bool) -> Images:
        return prepare(streams(batch.keys, "real")[0], batch.x) if train else batch.x

    def both_kinds(params, state, batch: Batch, train: bool) -> tuple[Images, Images, Labels | None, Labels | None]:
        """What the critic looks at: real and generated data, and the labels of either."""
        (keys,) = streams(batch.keys, "critic's")
        drawn = draw(keys, labels_of(batch) if paired else None)
        fake, _ = generate(params, state, drawn, keys, train)
        return seen(batch, train), fake, labels_of(batch), drawn.labels

    def penalty_of(params, state, batch, real, fake, real_labels, fake_labels) -> Float[Array, ""]:
        on_real = lambda x: criticize(params, state, x, real_labels, False)[0]  # noqa: E731
        on_fake = lambda x: criticize(params, state, x, fake_labels, False)[0]  # noqa: E731
        return regularizer.penalty.fn(on_real, on_fake, real, fake, streams(batch.keys, "penalty")[0]).mean()

    def critic_loss(params, state, key, batch, *, step, train):
        real, fake, real_labels, fake_labels = both_kinds(params, state, batch, train)
        real_scores, state = criticize(params, state, real, real_labels, train)
        fake_scores, state = criticize(params, state, fake, fake_labels, train)
        metrics = {
            "real": real_scores.mean(),
            "fake": fake_scores.mean(),
            "lead": loss.lead(real_scores, fake_scores),
            "spread": spread(fake) / jnp.maximum(spread(real), 1e-6),
        }
        total = loss.critic(real_scores, fake_scores).mean()
        if regularizer is not None and regularizer.every == 1:
            metrics["penalty"] = penalty_of(params, state, batch, real, fake, real_labels, fake_labels)
            total = total + regularizer.weight(step) * metrics["penalty"]
        return total, (state, metrics)

    def lazy_loss(params, state, key, batch, *, step, train):
        real, fake, labels, fake_labels = seen(batch, train), None, labels_of(batch), None
        if regularizer.penalty.of_fake:
            real, fake, labels, fake_labels = both_kinds(params, state, batch, train)
        penalty = penalty_of(params, state, batch, real, fake, labels, fake_labels)
        return regularizer.every * regularizer.weight(step) * penalty, (state, {"penalty": penalty})

    def generator_loss(params, state, key, batch, *, step, train):
        keys = jnp.concatenate(streams(batch.keys, *(f"generator's {i}" for i in range(generator_batch))))
        drawn = draw(keys, labels_of(batch) if paired else None)
        fake, new_state = generate(params, state, drawn, keys, train)
        fake_scores, _ = criticize(params, state, fake, drawn.labels, train)
        real_scores = criticize(params, state, seen(batch, train), labels_of(batch), train)[0] if paired else None
        return loss.generator(real_scores, fake_scores).mean(), (new_state, {})

    def after(name: str, player: Player) -> Callable[..., PyTree] | None:
        if player.after is None:
            return None
        return lambda params, state, *, step: {**state, name: player.after(params[name], state[name])}

    def sample(variables: Variables, keys: Key, labels: Labels | None = None, *, truncation: float | None = None) -> Images:
        check_labels(labels, num_classes)
        drawn = draw(keys, labels)
        if truncation is not None:
            drawn = drawn._replace(z=truncated(keys, latent_dim, truncation))
        return generate(*variables, drawn, keys, False)[0]

    def nfe(*, truncation: float | None = None) -> int:
        check_truncation(truncation)
        return 1

    def draw_z(variables: Variables, keys: Key, labels: Labels | None = None) -> Array:
        check_labels(labels, num_classes)
        return normal(streams(keys, "z")[0], latent_dim)

    def decode_z(variables: Variables, keys: Key, z: Array, labels: Labels | None = None) -> Images:
        check_labels(labels, num_classes)
        drawn = draw(keys, labels)
        return generate(*variables, Draw(z, drawn.labels), keys, False)[0]

    def recalibrate(variables: Variables, batch: Batch) -> PyTree:
        params, state = variables
        fitted = generator.recalibrate(Variables(params["generator"], state["generator"]), *draw(batch.keys))
        return {**state, "generator": fitted}

    lazy = regularizer is not None and regularizer.every > 1
    return Model(
        init=init,
        objectives=(
            Objective("critic", critic_loss, "critic", after=after("critic", critic)),
            *([Objective("penalty", lazy_loss, "critic", every=regularizer.every, optimizer="critic")] if lazy else []),
            Objective("generator", generator_loss, "generator", every=n_critic, after=after("generator", generator)),
        ),
        sample=sample,
        nfe=nfe,
        num_classes=num_classes,
        recalibrate=None if generator.recalibrate is None else recalibrate,
        latents=(Latent("z", draw_z, decode_z, slerp),) if latents is None else latents,
        symptoms=symptoms,
    )


# --- latents ------------------------------------------------------------------------------------------------------------------


def normal(keys: Key, size: int) -> Float[Array, "batch size"]:
    """Standard normal numbers, one row a key."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def truncated(keys: Key, size: int, bound: float) -> Float[Array, "batch size"]:
    """The same given that all lie between -bound and bound."""
    check_truncation(bound)
    return jax.vmap(lambda key: jax.random.truncated_normal(key, -bound, bound, (size,)))(streams(keys, "z")[0])


def check_truncation(bound: float | None) -> None:
    """Raises InputError unless it is None or above 0."""
    if bound is not None and not bound > 0:
        raise InputError(f"truncation={bound} leaves no latents; give a number above 0, such as 0.7")


def slerp(a: Float[Array, "batch size"], b: Float[Array, "batch size"], weight: Float[Array, ""]) -> Float[Array, "batch size"]:
    """On the great circle through both directions, with lengths in between (White 2016): typical of a normal distribution."""
    length = lambda x: jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    angle = jnp.arccos(jnp.clip((a / length(a) * b / length(b)).sum(-1, keepdims=True), -1, 1))
    sine = jnp.maximum(jnp.sin(angle), 1e-6)
    return (jnp.sin((1 - weight) * angle) * a + jnp.sin(weight * angle) * b) / sine


def lerp(a: Float[Array, "batch *dims"], b: Float[Array, "batch *dims"], weight: Float[Array, ""]) -> Any:
    """On the straight line."""
    return (1 - weight) * a + weight * b
