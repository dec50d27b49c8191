// A pod's program in tests of the node: it serves HTTP, asks other servers, and shows files, without a shell.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"time"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2], os.Args[3])
	case "get":
		answer, err := get(os.Args[2])
		must(err)
		fmt.Print(answer)
	case "poll":
		fmt.Print(poll(os.Args[2]))
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

func get(address string) (string, error) {
	response, err := http.Get(address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// poll asks until there is an answer: a Service leads to a pod a moment after the pod is ready.
func poll(address string) string {
	for attempt := 0; ; attempt++ {
		answer, err := get(address)
		if err == nil {
			return answer
		}
		if attempt == 300 {
			log.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
