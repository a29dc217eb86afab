"""The game that all adversarial models share, on players of a few numbers whose scores are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import adversarial, game
from gm_jax.core import Batch, Player, Variables
from gm_jax.errors import InputError

N, DIM = 64, 3
KEYS = jax.random.split(jax.random.key(0), N)
X = jax.random.normal(jax.random.key(1), (N, DIM)) + 2
BATCH = Batch(X, jnp.arange(N) % 2, KEYS)
A = jnp.array([0.5, -1.0, 2.0])


def generator(seen=None):
    """x = gain z + shift; counts its updates."""

    def apply(variables, z, labels, *, train, keys=None):
        if seen is not None:
            seen.append((z, labels, keys))
        return variables.params["gain"] * z + variables.params["shift"], variables.state

    params = {"gain": jnp.float32(1.0), "shift": jnp.zeros(DIM)}
    return Player(
        lambda key, z, labels: Variables(params, {"updates": jnp.int32(0)}),
        apply,
        lambda params, state: {"updates": state["updates"] + 1},
    )


def critic():
    """The score a.x, plus the label."""

    def apply(variables, x, labels, *, train, keys=None):
        scores = x @ variables.params["a"] + (0 if labels is None else labels)
        return scores, variables.state

    return Player(lambda key, x, labels: Variables({"a": A}, {}), apply)


def make(loss="wasserstein", classes=None, seen=None, **options):
    loss = adversarial.adversarial_loss(loss)
    return game.adversarial_model(game.Game(classes, generator(seen), critic(), DIM, loss, **options))


def run(model, name, batch=BATCH, step=0):
    variables = model.init(jax.random.key(2), batch)
    objective = next(objective for objective in model.objectives if objective.name == name)
    return objective.loss(*variables, None, batch, step=step, train=True)


def test_each_player_minimises_its_loss():
    model = make("wasserstein")
    loss, (_, metrics) = run(model, "critic")
    assert float(loss) == pytest.approx(float(metrics["fake"] - metrics["real"]), abs=1e-5)
    assert float(metrics["real"]) == pytest.approx(float((X @ A).mean()), abs=1e-5)
    loss, _ = run(model, "generator")
    variables = model.init(jax.random.key(2), BATCH)
    gradient = jax.grad(
        lambda p: model.objectives[-1].loss(
            {**variables.params, "generator": p}, variables.state, None, BATCH, step=0, train=True
        )[0]
    )
    np.testing.assert_allclose(gradient(variables.params["generator"])["shift"], -A, atol=1e-5)  # uphill of the score


@pytest.mark.parametrize("every", [1, 16])
def test_a_lazy_penalty_weighs_as_much_in_the_long_run(every):
    penalty = game.Regularizer(adversarial.PENALTIES["r1"], lambda step: 0.3, every)
    model = make(regularizer=penalty)
    plain, (_, _) = run(make(), "critic")
    share = 0.3 * float((A**2).sum()) / 2  # R1 of a linear critic
    if every == 1:
        assert float(run(model, "critic")[0] - plain) == pytest.approx(share, rel=1e-4)
        assert [objective.name for objective in model.objectives] == ["critic", "generator"]
    else:
        lazy = model.objectives[1]
        assert (lazy.name, lazy.every, lazy.optimizer, lazy.group) == ("penalty", every, "critic", "critic")
        assert float(run(model, "penalty")[0]) == pytest.approx(every * share, rel=1e-4)
        assert float(run(model, "critic")[0]) == pytest.approx(float(plain), rel=1e-5)


def test_a_weight_may_follow_the_steps():
    model = make(regularizer=game.Regularizer(adversarial.PENALTIES["r1_r2"], lambda step: 0.1 * step))
    at = [float(run(model, "critic", step=step)[0]) for step in (0, 1, 2)]
    assert at[2] - at[1] == pytest.approx(at[1] - at[0], rel=1e-3)
    assert at[1] - at[0] == pytest.approx(0.1 * float((A**2).sum()), rel=1e-3)  # half of it at either kind of data


def test_the_players_see_latents_of_their_own_and_as_many_as_asked_for():
    seen = []
    model = make(seen=seen, n_critic=5, generator_batch=2)
    assert [objective.every for objective in model.objectives] == [1, 5]
    run(model, "critic")
    run(model, "generator")
    (of_critic, _, noise), (of_generator, _, more_noise) = seen
    assert of_critic.shape == (N, DIM) and of_generator.shape == (2 * N, DIM)
    rows = np.concatenate([of_critic, of_generator])
    assert len(np.unique(rows, axis=0)) == 3 * N
    keys = np.concatenate([jax.random.key_data(k) for k in (noise, more_noise)])
    assert len(np.unique(keys, axis=0)) == 3 * N


def test_generated_data_have_labels_of_their_own_unless_they_come_in_pairs():
    seen = []
    run(make(classes=2, seen=seen), "critic")
    run(make("relativistic", classes=2, seen=seen, paired=True), "critic")
    run(make("relativistic", classes=2, seen=seen, paired=True), "generator")
    (_, drawn, _), (_, paired, _), (_, also_paired, _) = seen
    assert (drawn != BATCH.labels).any() and set(np.asarray(drawn)) == {0, 1}
    assert (paired == BATCH.labels).all() and (also_paired == BATCH.labels).all()


def test_a_players_state_moves_once_an_update():
    model = make()
    params, state = model.init(jax.random.key(2), BATCH)
    by_name = {objective.name: objective for objective in model.objectives}
    assert by_name["critic"].after is None
    assert by_name["generator"].after(params, state, step=jnp.int32(0))["generator"]["updates"] == 1


def test_real_data_are_prepared_in_training_alone():
    model = make(prepare=lambda keys, x: x + 10)
    params, state = model.init(jax.random.key(2), BATCH)
    means = [model.objectives[0].loss(params, state, None, BATCH, step=0, train=train)[1][1]["real"] for train in (True, False)]
    assert float(means[0] - means[1]) == pytest.approx(10 * float(A.sum()), rel=1e-4)


# --- latents ------------------------------------------------------------------------------------------------------------------


def test_truncated_latents_lie_within_the_bound_and_are_denser():
    model = make()
    variables = model.init(jax.random.key(2), BATCH)
    free, bound = model.sample(variables, KEYS), model.sample(variables, KEYS, truncation=0.7)
    assert np.abs(bound).max() <= 0.7 < np.abs(free).max()
    assert np.abs(bound).std() < np.abs(free).std()
    for call in (model.nfe, lambda **options: model.sample(variables, KEYS, **options)):
        with pytest.raises(InputError, match="truncation"):
            call(truncation=0.0)


def test_a_latent_that_is_drawn_and_decoded_is_a_sample():
    model = make()
    variables = model.init(jax.random.key(2), BATCH)
    (latent,) = model.latents
    z = latent.draw(variables, KEYS)
    np.testing.assert_allclose(latent.decode(variables, KEYS, z), model.sample(variables, KEYS), atol=1e-6)


def test_the_great_circle_keeps_the_length_and_turns_evenly():
    a, b = jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 3.0]])
    for weight in (0.0, 1 / 3, 0.5, 1.0):
        angle = weight * np.pi / 2
        np.testing.assert_allclose(game.slerp(a, b, weight), 3 * np.array([[np.cos(angle), np.sin(angle)]]), atol=1e-5)
    assert np.isfinite(game.slerp(a, a, 0.5)).all()


def test_the_signs_of_all_devices_move_the_augmentation():
    rule = game.Augmentation(lambda keys, x, p: x, images_to_full=1000.0)
    rules = game.Game(None, generator(), critic(), DIM, adversarial.adversarial_loss("non_saturating"), augmentation=rule)
    state = game.init(rules, jax.random.key(0), BATCH).state
    scores = jax.random.normal(jax.random.key(3), (2, 8)) + 0.5
    whole = game.observe(rules, state, scores.reshape(-1))["augmentation"]
    parts = jax.vmap(lambda part: game.observe(rules._replace(axis_name="d"), state, part), axis_name="d")(scores)[
        "augmentation"
    ]
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], jnp.stack([value, value]), rtol=1e-6)
    assert float(whole["images"]) == 16
