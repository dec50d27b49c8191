// Modules whose CRDs the tests show the chart's objects to; nothing is built from them.
module modelfleet.io/tests/foreign

go 1.26

require (
	github.com/cert-manager/cert-manager v1.20.0
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
