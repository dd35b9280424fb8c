// Command check decodes Kubernetes manifests strictly into the types of the API: an unknown or doubled key,
// a value of the wrong type, and a kind that is not served are errors. It is a module of its own, so that
// Portolan itself needs none of those types.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

func main() {
	failed := false
	for _, path := range os.Args[1:] {
		n, err := check(path)
		if err == nil && n == 0 {
			err = errors.New("it holds no object")
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
			continue
		}
		fmt.Printf("%s: %d objects\n", path, n)
	}
	if failed || len(os.Args) < 2 {
		os.Exit(1)
	}
}

// check returns how many objects a file holds.
func check(path string) (n int, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	for documents := yaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(text))); ; n++ {
		b := make([]byte, len(text))
		k, err := documents.Read(b)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if _, _, err := strict.Decode(b[:k], nil, nil); err != nil {
			return n, fmt.Errorf("object %d: %w", n+1, err)
		}
	}
}
