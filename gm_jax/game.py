"""What all adversarial models share: two players, who updates when, what is drawn, and what is seen of the game.

A model names its players (`core.Player`), its loss and its penalty (`gm_jax.adversarial`). The critic updates at every step,
the generator at every `n_critic`-th; a penalty may be due at some steps only ("lazy", Karras et al. 2020, appendix B), where
it shares the critic's optimizer and weighs as much as the updates that went without it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.adversarial import AdversarialLoss, Penalty, Scores, spread, symptoms
from gm_jax.conditioning import check_labels, draw_labels
from gm_jax.core import (
    Batch,
    Images,
    Key,
    Labels,
    Latent,
    Metrics,
    Model,
    Objective,
    Player,
    PyTree,
    Variables,
    batch_mean,
    streams,
)
from gm_jax.critic_augment import adapted
from gm_jax.errors import InputError


class Regularizer(NamedTuple):
    """A penalty on the critic, its weight (of the step, a traced number), and every how many steps it is due."""

    penalty: Penalty
    weight: Callable[[Array], Float[Array, ""] | float]
    every: int = 1


class Augmentation(NamedTuple):
    """What is done to all that the critic sees in training: `alter(keys, x, p)`.

    p is `probability` of the step; where `images_to_full` is not 0 it follows the critic's overfitting instead, from 0 on:
    every `interval` updates it moves towards a mean sign of the scores of real images of `target`, and takes that many images
    to 1.
    """

    alter: Callable[[Key, Images, Array], Images]
    probability: Callable[[Array], Array | float] = lambda step: 1.0
    images_to_full: float = 0.0
    target: float = 0.6
    interval: int = 4


class Game(NamedTuple):
    """All that tells one adversarial model from another.

    generator_batch: samples in an update of the generator, in batches. paired: generated data take the labels of the real ones
    that they are held against, as a loss of pairs asks. prepare: what is done to real data in training, by the example's keys.
    """

    num_classes: int | None
    generator: Player
    critic: Player
    latent_dim: int
    loss: AdversarialLoss
    regularizer: Regularizer | None = None
    augmentation: Augmentation | None = None
    n_critic: int = 1
    generator_batch: int = 1
    paired: bool = False
    prepare: Callable[[Key, Images], Images] = lambda keys, x: x
    axis_name: str | None = None


class Turn(NamedTuple):
    """What a loss is given."""

    params: PyTree
    state: PyTree
    batch: Batch
    step: Array
    train: bool


class Seen(NamedTuple):
    """Data that the critic looks at, before augmentation, with their labels and keys."""

    x: Images
    labels: Labels | None
    keys: Key


def adversarial_model(game: Game) -> Model:
    """The model of a game.

    Its `sample` takes `truncation`: latents are drawn from the normal distribution between -truncation and truncation (Brock et
    al. 2019, section 3.1). Raises InputError for labels of a model without classes.
    """
    lazy = game.regularizer is not None and game.regularizer.every > 1
    return Model(
        init=partial(init, game),
        objectives=(
            Objective("critic", _loss(game, critic_loss), "critic", after=after_critic(game)),
            *([_lazy_objective(game)] if lazy else []),
            Objective("generator", _loss(game, generator_loss), "generator", every=game.n_critic, after=after_generator(game)),
        ),
        sample=partial(sample, game),
        nfe=nfe,
        num_classes=game.num_classes,
        recalibrate=None if game.generator.recalibrate is None else partial(recalibrate, game),
        latents=(Latent("z", partial(draw_z, game), partial(decode_z, game), slerp),),
        symptoms=symptoms,
    )


def init(game: Game, key: Key, batch: Batch) -> Variables:
    """Both players fresh."""
    generator_key, critic_key = streams(key, "generator", "critic")
    generator = game.generator.init(generator_key, *draw(game, batch.keys))
    critic = game.critic.init(critic_key, batch.x, labels_of(game, batch))
    state = {"generator": generator.state, "critic": critic.state}
    if is_adaptive(game):
        state["augmentation"] = {"p": jnp.zeros(()), "signs": jnp.zeros(2), "images": jnp.zeros(())}
    return Variables({"generator": generator.params, "critic": critic.params}, state)


# --- what is drawn and seen ---------------------------------------------------------------------------------------------------


def draw(game: Game, keys: Key, labels: Labels | None = None) -> tuple[Float[Array, "batch latent"], Labels | None]:
    """Latents, and the classes that go with them: those given, or fair draws; None for a model without."""
    z_keys, label_keys = streams(keys, "z", "label")
    if game.num_classes is not None and labels is None:
        labels = draw_labels(label_keys, game.num_classes)
    return normal(z_keys, game.latent_dim), labels


def labels_of(game: Game, batch: Batch) -> Labels | None:
    """Those of real data, as far as the model takes them."""
    return None if game.num_classes is None else batch.labels


def generate(
    game: Game, variables: Variables, z: Array, labels: Labels | None, keys: Key, train: bool
) -> tuple[Images, PyTree]:
    """(images, the state with the generator's new one)."""
    params, state = variables
    own = Variables(params["generator"], state["generator"])
    x, new = game.generator.apply(own, z, labels, train=train, keys=streams(keys, "generator's noise")[0])
    return x, {**state, "generator": new}


def real_data(game: Game, turn: Turn) -> Seen:
    """The batch, prepared in training."""
    (keys,) = streams(turn.batch.keys, "real")
    x = game.prepare(keys, turn.batch.x) if turn.train else turn.batch.x
    return Seen(x, labels_of(game, turn.batch), keys)


def generated(game: Game, turn: Turn, keys: Key) -> tuple[Seen, PyTree]:
    """One sample a key, and the state with the generator's new one."""
    z, labels = draw(game, keys, labels_of(game, turn.batch) if game.paired else None)
    x, state = generate(game, Variables(turn.params, turn.state), z, labels, keys, turn.train)
    return Seen(x, labels, keys), state


def scores_of(game: Game, turn: Turn, seen: Seen, phase: str, train: bool | None = None) -> tuple[Scores, PyTree]:
    """(the critic's scores of data, augmented in training; the state with the critic's new one).

    `phase` tells apart what is drawn for the several looks of one step.
    """
    x, state, train = seen.x, turn.state, turn.train if train is None else train
    if game.augmentation is not None and turn.train:
        p = state["augmentation"]["p"] if is_adaptive(game) else game.augmentation.probability(turn.step)
        x = game.augmentation.alter(streams(seen.keys, f"augmentation {phase}")[0], x, p)
    scores, new = game.critic.apply(Variables(turn.params["critic"], state["critic"]), x, seen.labels, train=train)
    return scores, {**state, "critic": new}


# --- losses -------------------------------------------------------------------------------------------------------------------


def critic_loss(game: Game, turn: Turn) -> tuple[Array, tuple[PyTree, Metrics]]:
    """The critic's loss and, where it is due at every step, the penalty."""
    real, (fake, _) = real_data(game, turn), generated(game, turn, streams(turn.batch.keys, "critic's")[0])
    real_scores, state = scores_of(game, turn, real, "of real")
    fake_scores, state = scores_of(game, turn._replace(state=state), fake, "of generated")
    metrics = {
        "real": real_scores.mean(),
        "fake": fake_scores.mean(),
        "lead": game.loss.lead(real_scores, fake_scores),
        "spread": spread(fake.x) / jnp.maximum(spread(real.x), 1e-6),
    }
    if is_adaptive(game):
        state, metrics = observe(game, state, real_scores), metrics | {"augmentation": state["augmentation"]["p"]}
    total = game.loss.critic(real_scores, fake_scores).mean()
    if game.regularizer is not None and game.regularizer.every == 1:
        metrics["penalty"] = penalty_of(game, turn, real, fake)
        total = total + game.regularizer.weight(turn.step) * metrics["penalty"]
    return total, (state, metrics)


def penalty_of(game: Game, turn: Turn, real: Seen, fake: Seen | None) -> Float[Array, ""]:
    """The mean penalty; slopes are those of the critic behind the augmentation."""
    on_real = lambda x: scores_of(game, turn, real._replace(x=x), "of the penalty", train=False)[0]  # noqa: E731
    on_fake = lambda x: scores_of(game, turn, fake._replace(x=x), "of the penalty", train=False)[0]  # noqa: E731
    keys, x = streams(turn.batch.keys, "penalty")[0], None if fake is None else fake.x
    return game.regularizer.penalty.fn(on_real, on_fake, real.x, x, keys).mean()


def lazy_loss(game: Game, turn: Turn) -> tuple[Array, tuple[PyTree, Metrics]]:
    """The penalty where it is due at some steps only."""
    fake = None
    if game.regularizer.penalty.of_fake:
        fake, _ = generated(game, turn, streams(turn.batch.keys, "penalty's")[0])
    penalty = penalty_of(game, turn, real_data(game, turn), fake)
    return game.regularizer.every * game.regularizer.weight(turn.step) * penalty, (turn.state, {"penalty": penalty})


def generator_loss(game: Game, turn: Turn) -> tuple[Array, tuple[PyTree, Metrics]]:
    """The generator's loss."""
    keys = jnp.concatenate(streams(turn.batch.keys, *(f"generator's {i}" for i in range(game.generator_batch))))
    fake, state = generated(game, turn, keys)
    fake_scores, _ = scores_of(game, turn, fake, "of generated")
    real_scores = scores_of(game, turn, real_data(game, turn), "beside generated")[0] if game.paired else None
    return game.loss.generator(real_scores, fake_scores).mean(), (state, {})


def _loss(game: Game, fn: Callable) -> Callable:
    def loss(params, state, key, batch, *, step, train):
        del key  # for dropout, which no player has
        return fn(game, Turn(params, state, batch, step, train))

    return loss


def _lazy_objective(game: Game) -> Objective:
    return Objective("penalty", _loss(game, lazy_loss), "critic", every=game.regularizer.every, optimizer="critic")


# --- once an update -----------------------------------------------------------------------------------------------------------


def is_adaptive(game: Game) -> bool:
    """Does the augmentation follow the critic's overfitting?"""
    return game.augmentation is not None and game.augmentation.images_to_full > 0


def observe(game: Game, state: PyTree, scores: Scores) -> PyTree:
    """The state after one more microbatch of real images: the sum of the mean signs, their number, and how many images."""
    seen, devices = state["augmentation"], 1 if game.axis_name is None else jax.lax.psum(1, game.axis_name)
    mean = batch_mean(jnp.sign(jax.lax.stop_gradient(scores)), game.axis_name)
    seen = {**seen, "signs": seen["signs"] + jnp.stack([mean, 1.0]), "images": seen["images"] + len(scores) * devices}
    return {**state, "augmentation": seen}


def adapt(game: Game, state: PyTree, step: Array) -> PyTree:
    """The state with p moved, where that is due."""
    seen, rule = state["augmentation"], game.augmentation
    mean = seen["signs"][0] / jnp.maximum(seen["signs"][1], 1)
    moved = {
        "p": adapted(seen["p"], mean, seen["images"], rule.target, rule.images_to_full),
        "signs": jnp.zeros(2),
        "images": jnp.zeros(()),
    }
    due = (step + 1) % rule.interval == 0
    return {**state, "augmentation": jax.tree.map(lambda new, old: jnp.where(due, new, old), moved, seen)}


def after_critic(game: Game) -> Callable[..., PyTree] | None:
    """What happens after the critic's updates; None: nothing."""
    if game.critic.after is None and not is_adaptive(game):
        return None

    def after(params, state, *, step):
        if game.critic.after is not None:
            state = {**state, "critic": game.critic.after(params["critic"], state["critic"])}
        return adapt(game, state, step) if is_adaptive(game) else state

    return after


def after_generator(game: Game) -> Callable[..., PyTree] | None:
    """What happens after the generator's updates; None: nothing."""
    if game.generator.after is None:
        return None
    return lambda params, state, *, step: {
        **state,
        "generator": game.generator.after(params["generator"], state["generator"]),
    }


# --- sampling -----------------------------------------------------------------------------------------------------------------


def sample(
    game: Game, variables: Variables, keys: Key, labels: Labels | None = None, *, truncation: float | None = None
) -> Images:
    """One sample a key."""
    check_labels(labels, game.num_classes)
    z, labels = draw(game, keys, labels)
    z = z if truncation is None else truncated(keys, game.latent_dim, truncation)
    return generate(game, variables, z, labels, keys, False)[0]


def nfe(*, truncation: float | None = None) -> int:
    """One evaluation of the generator."""
    check_truncation(truncation)
    return 1


def draw_z(game: Game, variables: Variables, keys: Key, labels: Labels | None = None) -> Float[Array, "batch latent"]:
    """The latents that `sample` draws."""
    check_labels(labels, game.num_classes)
    return draw(game, keys, labels)[0]


def decode_z(game: Game, variables: Variables, keys: Key, z: Array, labels: Labels | None = None) -> Images:
    """The images of latents."""
    check_labels(labels, game.num_classes)
    return generate(game, variables, z, draw(game, keys, labels)[1], keys, False)[0]


def recalibrate(game: Game, variables: Variables, batch: Batch) -> PyTree:
    """The state whose generator's statistics fit its parameters."""
    params, state = variables
    own = Variables(params["generator"], state["generator"])
    return {**state, "generator": game.generator.recalibrate(own, *draw(game, batch.keys))}


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
