"""A whole experiment, done here and now."""

import dataclasses
import json


def done(experiment, config):
    """Do all units of an experiment, and return what it would write."""
    parts = {
        unit: experiment.work(config, unit, lambda *_: None) for unit in experiment.units(config)
    }
    dataset = experiment.combine(config, parts)
    return dataset.assign_attrs(configuration=json.dumps(dataclasses.asdict(config)))
