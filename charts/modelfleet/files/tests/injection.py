"""Ask the injector, over TLS and by name, what it does to a labelled pod, as the API server does."""

import base64
import json
import ssl
import sys
import time
import urllib.request

SECONDS = 60.0
url, authority, namespace = sys.argv[1:]

pod = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "test", "labels": {"modelfleet.io/inject": "true"}},
    "spec": {"containers": [{"name": "app", "image": "app"}]},
}
review = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "test",
        "operation": "CREATE",
        "namespace": namespace,
        "dryRun": True,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "object": pod,
    },
}
request = urllib.request.Request(  # noqa: S310 - the chart gives the URL
    url, data=json.dumps(review).encode(), headers={"Content-Type": "application/json"}
)
direct = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=authority)),
)
deadline = time.monotonic() + SECONDS
while True:
    try:
        with direct.open(request, timeout=5) as answer:
            response = json.load(answer)["response"]
        break
    except OSError as error:
        if time.monotonic() > deadline:
            sys.exit(f"{url} does not answer after {SECONDS:.0f} s ({error}): look at the injector's logs")
        time.sleep(1)
patch = json.loads(base64.b64decode(response.get("patch", "W10=")))
if not response["allowed"] or "modelfleet-sidecar" not in json.dumps(patch):
    sys.exit(f"{url} does not inject the sidecar: {response}")
print(f"{url} injects the sidecar")
