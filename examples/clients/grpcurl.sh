#!/bin/sh
# The Router API by hand: grpcurl finds its messages by reflection.
set -eu
address=${MODELFLEET_ADDRESS:-127.0.0.1:17070}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT
question='"messages": [{"role": "user", "content": "What is the weather in Paris?"}]'
weather='{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}'

grpcurl -plaintext "$address" list
echo "== a whole answer"
grpcurl -plaintext -d "{$question}" "$address" modelfleet.v1.Router/Complete | tee "$answer"
echo "== a stream of any model but one, which the header says as metadata"
grpcurl -plaintext -H 'x-modelfleet-exclude: large' -d "{$question}" "$address" modelfleet.v1.Router/Chat
echo "== a tool"
grpcurl -plaintext -d "{$question, \"parameters\": {\"tools\": [$weather]}}" "$address" \
  modelfleet.v1.Router/Complete
echo "== why that model"
id=$(sed -n 's/.*"decision_id": "\([^"]*\)".*/\1/p' "$answer" | head -1)
grpcurl -plaintext -d "{\"decision_id\": \"$id\"}" "$address" modelfleet.v1.Router/Explain
