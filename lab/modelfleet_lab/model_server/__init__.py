"""A simulated, OpenAI-compatible model server: `ModelServer` here, `modelfleet-model-server` as a program."""

from modelfleet_lab.model_server.answers import Answer, answer_line, message_key
from modelfleet_lab.model_server.faults import FAULT_HEADER, Fault, FaultKind
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.requests_log import RequestRecord, read_records
from modelfleet_lab.model_server.server import ModelServer, ServerSettings

__all__ = [
    "FAULT_HEADER",
    "Answer",
    "Fault",
    "FaultKind",
    "LatencyProfile",
    "ModelServer",
    "RequestRecord",
    "ServerSettings",
    "answer_line",
    "message_key",
    "read_records",
]
