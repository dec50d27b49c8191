"""Ask the capacity Service, over TLS and by name, whether leases are granted, and without a token for one."""

import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 60.0
SERVICE = "modelfleet.v1.Capacity"
address, authority = sys.argv[1:]

deadline = time.monotonic() + SECONDS
with open(authority, "rb") as file:
    channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(file.read()))
while True:
    try:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5, wait_for_ready=True)
        found = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    except grpc.RpcError as error:
        found = f"{error.code().name}: {error.details()}"
    if found == "SERVING":
        break
    if time.monotonic() > deadline:
        sys.exit(f"{address} grants no leases after {SECONDS:.0f} s ({found}): look at the operator's logs")
    time.sleep(1)
print(f"{address} grants leases")

try:
    next(channel.stream_stream(f"/{SERVICE}/Lease")(iter([b""]), timeout=10))
except grpc.RpcError as error:
    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
        sys.exit(
            f"without a token {address} answers {error.code().name}, not UNAUTHENTICATED: {error.details()}"
        )
else:
    sys.exit(f"{address} grants leases to callers without a token")
print("and none without a token")
