"""A model in, a report out: recurrent layers found, their inputs recorded, verdict and advice."""

from jacobian_rnn.diagnosis.advice import Advice
from jacobian_rnn.diagnosis.credit_by_lag import CreditByLag
from jacobian_rnn.diagnosis.finding import record_layers
from jacobian_rnn.diagnosis.measures import diagnose
from jacobian_rnn.diagnosis.recorded_layers import RecordedLayer
from jacobian_rnn.diagnosis.result import Diagnosis, LayerDiagnosis
from jacobian_rnn.diagnosis.saturation import Saturation

__all__ = [
    "Advice",
    "CreditByLag",
    "Diagnosis",
    "LayerDiagnosis",
    "RecordedLayer",
    "Saturation",
    "diagnose",
    "record_layers",
]
