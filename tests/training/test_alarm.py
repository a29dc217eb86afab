"""Symptoms are told once they last, and once as long as they last."""

from gm_jax.training.alarm import Alarm


def symptoms(values):
    return {"high": f"a is {values['a']}"} if values["a"] > 1 else {}


def test_a_symptom_is_told_at_its_second_entry_in_a_row_and_again_after_it_had_gone():
    alarm = Alarm(symptoms)
    told = [alarm({"a": value}) for value in (2, 0, 2, 3, 4, 0, 5, 6)]
    assert told == [[], [], [], ["a is 3"], [], [], [], ["a is 6"]]


def test_a_model_without_symptoms_is_silent():
    assert Alarm(None)({"a": 5.0}) == []
