// A pod's program in tests of the node: it serves HTTP, asks other servers, and shows files, without a shell.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2], os.Args[3])
	case "get":
		get(os.Args[2])
	case "show":
		content, err := os.ReadFile(os.Args[2])
		must(err)
		fmt.Print(string(content))
	case "write":
		must(os.WriteFile(os.Args[2], []byte("written"), 0o600))
	default:
		log.Fatalf("no verb %q", os.Args[1])
	}
}

func serve(address, answer string) {
	http.HandleFunc("/", func(writer http.ResponseWriter, request *http.Request) {
		log.Printf("asked for %s", request.URL.Path)
		fmt.Fprint(writer, answer)
	})
	must(http.ListenAndServe(address, nil))
}

func get(address string) {
	response, err := http.Get(address)
	must(err)
	body, err := io.ReadAll(response.Body)
	must(err)
	fmt.Print(string(body))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
