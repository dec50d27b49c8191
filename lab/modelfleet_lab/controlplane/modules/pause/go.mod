module modelfleet.io/tools/pause

go 1.26
