"""Every number of every model of parameters has bounds: at them it is taken, beyond them refused by its key."""
import math, typing
from types import UnionType

import annotated_types
import pytest
from pydantic import ValidationError

from offline_slate_rl.core.errors import AGENTS, RANKERS, SlateRLError
from offline_slate_rl.core.params import Strict, load_params

FREE = {'offset', 'rel_threshold', 'target_entropy'}  # any finite number has a meaning
ENTRIES = {'propensities', 'hidden_dims'}             # lists of numbers


def models(model: type = Strict) -> list[type]:
    found = [model, *(below for child in model.__subclasses__() for below in models(child))]
    return [each for each in found if each.__module__.startswith('offline_slate_rl')]

def number(field) -> tuple[type, list]|None:
    "int or float, and the constraints, of a field that holds a number; None of any other field."
    kind, constraints = field.annotation, list(field.metadata)
    if typing.get_origin(kind) in (typing.Union, UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    while typing.get_origin(kind) is list: [kind] = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Annotated: kind, *more = typing.get_args(kind); constraints += more
    constraints += [part for one in constraints for part in getattr(one, 'metadata', ())]  # of pydantic's Field
    return (kind, constraints) if kind in (int, float) else None

def numbers() -> dict[str, tuple]:
    "Model, field, type and constraints of every number."
    for registry in AGENTS, RANKERS:
        for name in registry.names(): registry[name]
    found = {}
    for model in models():
        for name, field in model.model_fields.items():
            if its := number(field): found[f'{model.__name__}.{name}'] = model, name, *its
    return found

NUMBERS = numbers()

def edges(kind: type, constraints: list) -> tuple[list, list]:
    "Values at the bounds, and values beyond them."
    step = 1 if kind is int else 1e-6
    inside, outside = [], [math.nan, math.inf] if kind is float else [1.5]
    for one in constraints:
        match one:
            case annotated_types.Ge(bound): inside.append(kind(bound)); outside.append(kind(bound - step))
            case annotated_types.Gt(bound): inside.append(kind(bound + step)); outside.append(kind(bound))
            case annotated_types.Le(bound): inside.append(kind(bound)); outside.append(kind(bound + step))
            case annotated_types.Lt(bound): inside.append(kind(bound - step)); outside.append(kind(bound))
    return inside, outside

def accepts(model: type, name: str, value) -> bool:
    "Whether a field takes a value, whatever is missing beside it."
    if name in ENTRIES: value = [value]
    if name == 'propensities': value = [value]
    try: model.model_validate({name: value})
    except ValidationError as error: return all(one['loc'][0] != name for one in error.errors() if one['loc'])
    return True


def test_the_models_are_all_there(): assert len(NUMBERS) > 100 and len({model for model, *_ in NUMBERS.values()}) > 20

@pytest.mark.parametrize('which', NUMBERS)
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(which):
    model, name, kind, constraints = NUMBERS[which]
    inside, outside = edges(kind, constraints)
    assert inside or name in FREE, f'{which} has no bounds'
    assert [value for value in inside if not accepts(model, name, value)] == []
    assert [value for value in outside if accepts(model, name, value)] == []


@pytest.mark.parametrize('key, value', [
    ('env.gamma', 1.5), ('training.log_every_n_steps', -1), ('collection.block_size', 0), ('gems.epochs', 0),
    ('logged.num_trajectories', 1), ('mf.train_val_split', 0.), ('agent.tau', 0.), ('agent.belief.state_dim', 0)])
def test_a_person_reads_the_key(key, value):
    with pytest.raises(SlateRLError, match=f"overrides: '{key}' is {value}. Input should be"):
        load_params('focused_mix', scale='tiny', overrides={key: value})
