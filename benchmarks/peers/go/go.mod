module modelfleet/benchmarks/peers

go 1.24
